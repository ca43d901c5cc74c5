"""Runs that a plan is calibrated by: `finetune plan --calibrate RUN`, a run folder, a run's storage, or a folder of either.

In: places. Out: what was planned and what was seen of each run on machines like the job's. Only run.json, metrics.jsonl and manifests of
checkpoints are read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_api.calibration import Calibration, Seen
    from finetune_api.finetunejob import FineTuneJob
    from finetune_api.training_run import TrainingRun
    from finetune_trainer.checkpoints.store import CheckpointStore
    from finetune_trainer.reporting.events import StepDone

# The first steps warm up.
_WARM_UP = 2
# Of smaller checkpoints, latency is what counts.
_SMALLEST_CHECKPOINT = 64 * 2**20
_METRICS = "metrics.jsonl"


def calibration_of(places: Sequence[str], job: "FineTuneJob") -> "Calibration":
    """What the runs say that ran on the job's kind of machine. Raises InvalidInput where none did."""
    from finetune_api.accelerators import accelerator
    from finetune_api.calibration import calibration
    from finetune_api.checks import device
    from finetune_api.errors import InvalidInput

    kind = device(job.spec)
    card = accelerator(job.spec.workers.accelerator or "") if kind == "gpu" else None
    found = [seen for place in places for seen in _seen(place)]
    alike = [one for one in found if one.plan.device == kind and (card is None or one.plan.accelerator == card.name)]
    made = calibration(alike)
    if made is None:
        where, what = ", ".join(places), card.name if card else kind
        others = sorted({one.plan.accelerator or one.plan.device for one in found})
        told = f"only of {', '.join(others)}" if others else "none of which a step was measured"
        raise InvalidInput(f"--calibrate {where}: there are runs {told}; name one on {what}, or leave it out")
    return made


def _seen(place: str) -> "Iterator[Seen]":
    """The runs in a place: of a folder of runs, each."""
    path = Path(place)
    if "://" not in place and not path.is_dir():
        from finetune_api.errors import InvalidInput

        raise InvalidInput(
            f"--calibrate {place}: there is no such folder; name a run folder, or where checkpoints are (s3://bucket/prefix)"
        )
    if (path / "run.json").is_file():
        yield from _in_folder(path)
    elif "://" in place or (path / "run" / "run.json").is_file():
        yield from _in_storage(place)
    else:
        for inner in sorted(path.iterdir()):
            if (inner / "run.json").is_file():
                yield from _in_folder(inner)
            elif (inner / "run" / "run.json").is_file():
                yield from _in_storage(str(inner))


def _in_folder(path: Path) -> "Iterator[Seen]":
    from finetune_api.errors import FineTuneError
    from finetune_trainer.checkpoints.job_storage import job_checkpoints
    from finetune_trainer.run_folder import RunFolder
    from finetune_trainer.secrets import Secrets

    folder = RunFolder(path)
    run = folder.frozen_run()
    if run is None:
        return
    base = Path(folder.origin.read_text(encoding="utf-8").strip()) if folder.origin.is_file() else path
    try:
        store = job_checkpoints(run.job, base=base, default=folder.storage, secrets=Secrets())
        speed = _checkpoint_speed(store, run)
    except FineTuneError:  # storage that this machine may not read tells nothing of checkpoints
        speed = None
    yield from _seen_of(run, folder.metrics, speed)


def _in_storage(url: str) -> "Iterator[Seen]":
    import tempfile

    from finetune_cli.environment_storage import open_from_environment
    from finetune_trainer.checkpoints.run_record import kept_run
    from finetune_trainer.checkpoints.store import CheckpointStore
    from finetune_trainer.storage.errors import MissingObject
    from finetune_trainer.storage.probe import check_readable

    storage = open_from_environment(url, "--calibrate")
    check_readable(storage)
    run = kept_run(storage)
    with tempfile.TemporaryDirectory(prefix="finetune-plan-") as folder:
        metrics = Path(folder) / _METRICS
        try:
            storage.get_file(_METRICS, metrics)
        except MissingObject:
            return
        store = CheckpointStore(storage, identity=run.identity, job=run.job.metadata.name)
        yield from _seen_of(run, metrics, _checkpoint_speed(store, run))


def _seen_of(run: "TrainingRun", metrics: Path, checkpoint_speed: float | None) -> "Iterator[Seen]":
    """The run beside what would be planned of it without calibration."""
    from finetune_api.calibration import Seen
    from finetune_api.plan import replanned
    from finetune_trainer.reporting.events import StepDone
    from finetune_trainer.reporting.metrics import read_metrics

    steps = [event for event in read_metrics(metrics) if isinstance(event, StepDone)]
    if not steps:
        return
    yield Seen(
        plan=replanned(run),
        step_seconds=_full_step_seconds(steps, run.plan.tokens_per_step),
        memory_bytes=max(step.memory_bytes for step in steps),
        footprint_bytes=max(step.footprint_bytes for step in steps) or None,
        checkpoint_bytes_per_second=checkpoint_speed,
    )


def _full_step_seconds(steps: "Sequence[StepDone]", tokens: int) -> float:
    """The median step, as long as one with full rows would take."""
    warm = steps[_WARM_UP:] or steps
    return median(step.seconds * tokens / step.tokens for step in warm)


def _checkpoint_speed(store: "CheckpointStore", run: "TrainingRun") -> float | None:
    """Bytes a second of one worker, in the median."""
    speeds = []
    for one in store.candidates():
        seconds = float(one.extra.get("writeSeconds") or one.extra.get("seconds") or 0.0)
        if seconds > 0 and one.num_bytes >= _SMALLEST_CHECKPOINT:
            speeds.append(one.num_bytes / seconds / run.plan.world_size)
    return median(speeds) if speeds else None
