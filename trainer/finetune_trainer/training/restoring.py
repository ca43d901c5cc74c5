"""A run goes on from its newest checkpoint that every rank can read to the last byte, if it has one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.errors import RunConflict, StorageFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.checkpoints.sharing import shared_folder
from finetune_trainer.checkpoints.store import CheckpointStore, Reader
from finetune_trainer.reporting.events import Event, Notice
from finetune_trainer.storage.errors import DamagedCheckpoint

if TYPE_CHECKING:  # drivers import this file, and no torch
    from finetune_trainer.training.collectives import Ranks
    from finetune_trainer.training.engine import Engine


def begins_with_weights(run: TrainingRun, store: CheckpointStore, ranks: "Ranks") -> bool:
    """Whether the base model's weights are needed: not where there is a checkpoint that holds every value. Collective, before any fetch.

    One that turns out damaged changes nothing: with all of them damaged nothing begins anew either (`restore`).
    """
    return ranks.from_first(lambda: not _holds_all(run, store.newest_verified()))


def _holds_all(run: TrainingRun, checkpoint: Manifest | None) -> bool:
    """With adapters a checkpoint lacks the weights beside them; and engines take what is saved and not trained from the base model."""
    if checkpoint is None or run.job.spec.training.adapter is not None:
        return False
    return all(kind != "constant" for kind, _ in checkpoint.tensors)


def restore(
    engine: "Engine",
    store: CheckpointStore,
    run: TrainingRun,
    ranks: "Ranks",
    tell: Callable[[Event], None],
    signs: Callable[[str], None],
    *,
    weights: bool,
) -> Manifest | None:
    """Take up the newest checkpoint that every rank can read to the last byte; it, None when there is none. `weights`: the engine has some.

    Raises StorageFailed when there are checkpoints and all are damaged: starting anew would bury what may yet be saved. Also when those
    are gone that were there before an engine was made without weights.
    """
    damaged: list[str] = []

    def pass_over(message: str) -> None:
        damaged.append(message)
        tell(Notice(message=f"passed over: {message}"))

    candidates = store.candidates(pass_over) if ranks.rank == 0 else iter(())
    while (checkpoint := ranks.from_first(lambda: _next(candidates, run))) is not None:
        problem = _load(engine, store, checkpoint, ranks, signs)
        if problem is None:
            return checkpoint
        damaged.append(problem)
        tell(Notice(message=f"checkpoint of step {checkpoint.step} can't be used, the one before it is tried: {problem}"))
    if found := ranks.from_first(lambda: len(damaged)):
        raise StorageFailed(
            f"none of the {found} checkpoints in {store.storage.url} can be read; restore them from a copy, or delete them to begin anew"
        )
    if not weights:
        raise StorageFailed(
            f"the checkpoints in {store.storage.url} were deleted while this attempt began; the next one begins without them"
        )
    return None


def _load(engine: "Engine", store: CheckpointStore, checkpoint: Manifest, ranks: "Ranks", signs: Callable[[str], None]) -> str | None:
    """Why some rank could not read all of its part; the ranks of a node read together. Collective."""
    with store.reader(checkpoint) as reader:
        needs = reader.expect((piece.kind, piece.name, piece.start, piece.stop) for piece in engine.local_state())
        with shared_folder(ranks, f"{store.claim.token}-{checkpoint.step}-{checkpoint.attempt}", needs) as shared:
            if shared is not None:
                reader.share(*shared)
            read = _Lenient(reader, signs)
            engine.load_local_state(read, step=checkpoint.step)
            return next(filter(None, ranks.gathered(read.problem)), None)


def check_same_inputs(manifest: Manifest, run: TrainingRun) -> None:
    """A checkpoint goes on with the data and the base model that it was made from. Raises RunConflict.

    Storage belongs to a job's settings; what a path or a branch in them holds may have changed since.
    """
    for what, now in inputs_of(run).items():
        then = manifest.extra.get(what)
        if then != now:
            raise RunConflict(
                f"checkpoint {manifest.key} was made from another {what} ({str(then)[:19]}; now {now[:19]}); "
                "put it back, or give the run a storage of its own (spec.checkpoints.storage)"
            )


def inputs_of(run: TrainingRun) -> dict[str, str]:
    """What shaped a checkpoint besides the job's settings, as its manifest keeps it."""
    return {"data": run.data.fingerprint, "model": run.model_revision}


@dataclass(slots=True)
class _Lenient:
    """Reads zeros from a damaged checkpoint and remembers why: restoring is collective, so no rank may leave in the middle."""

    reader: Reader
    signs: Callable[[str], None]
    problem: str | None = None

    def __call__(self, kind: str, name: str, start: int, stop: int) -> Any:
        self.signs("restoring a checkpoint")
        if self.problem is None:
            try:
                return self.reader.read(kind, name, start, stop)
            except DamagedCheckpoint as error:
                self.problem = str(error)
        return np.zeros(stop - start, dtype=np.float32)


def _next(candidates: Iterator[Manifest], run: TrainingRun) -> Manifest | None:
    manifest = next(candidates, None)
    if manifest is not None:
        check_same_inputs(manifest, run)
    return manifest
