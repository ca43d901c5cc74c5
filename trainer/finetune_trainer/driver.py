"""The driver: a TrainingRun becomes Ray Train workers, and what they report becomes events.

In: a frozen run, where its files are, a sink and a request to stop. Out: the number of steps done. Ray is already running.
Workers talk to the driver through one small actor, the mailbox, and only rank 0 does; the driver never looks into a worker.
"""

import threading
from collections.abc import Callable
from typing import Any

from finetune_api import errors
from finetune_api.errors import FineTuneError, InvalidSpec, TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.places import Placement
from finetune_trainer.pods.stop_files import StopFiles
from finetune_trainer.progress import Event, Sink, Stopping

# How often the driver empties the mailbox. Progress bars need no more, and an empty call costs about a millisecond.
POLL_SECONDS = 0.2

# What Ray Train 2.60 gives for a worker whose process is gone.
_DEATHS = {"ActorDiedError", "RayActorError", "WorkerCrashedError", "WorkerHealthCheckFailedError", "OutOfMemoryError", "NodeDiedError"}

# What torch's NCCL backend says before any code of ours runs.
_NO_GPU_TEXT = "no GPUs found"
_NO_GPU = (
    "it was given GPUs and sees none; check the NVIDIA driver and container runtime of its node and the image's CUDA, "
    "or set spec.workers.device: cpu"
)


class Mailbox:
    """What rank 0 wrote and nobody has read yet, and what the driver asks of it. Runs as a Ray actor on the driver's node."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._steps_done: int | None = None

    def record(self, event: Event) -> None:
        """Rank 0: something happened."""
        self._events.append(event)

    def fail(self, reason: str, message: str) -> None:
        """Any rank: it ends with this FineTuneError. The first counts, later ones follow from it."""
        self._failure = self._failure or (reason, message)

    def finish(self, steps_done: int) -> None:
        """Rank 0: the loop ended after so many steps."""
        self._steps_done = steps_done

    def request_stop(self) -> None:
        """Driver: commit a checkpoint after the current step and end."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Rank 0: whether the driver asked for a stop."""
        return self._stop

    def take(self) -> list[Event]:
        """Driver: the events since the last call."""
        events, self._events = self._events, []
        return events

    def outcome(self) -> tuple[int | None, tuple[str, str] | None]:
        """Driver: steps done if the loop ended, and the first failure."""
        return self._steps_done, self._failure


def train(run: TrainingRun, placement: Placement, *, sink: Sink, stop: threading.Event, stop_files: StopFiles | None = None) -> int:
    """Run the workers until they are done or stopped; the number of optimizer steps that are done and committed.

    `stop_files`: where each worker's pod is asked to stop; None on one machine.
    Raises the FineTuneError that a worker ended with, or TrainingFailed when one died without a word.
    """
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from finetune_trainer.worker import train_on_rank

    # On the driver's node: a worker's may go away, and with it why.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    trainer = TorchTrainer(
        train_on_rank,
        train_loop_config={"run": run.to_json(), "placement": placement, "stop_files": stop_files, "mailbox": mailbox},
        torch_config=TorchConfig(backend="nccl" if run.plan.device == "gpu" else "gloo"),
        scaling_config=_scaling(run),
        # A failed attempt ends here; the next one is another driver's, which takes the newest checkpoint from storage.
        run_config=ray.train.RunConfig(
            name=run.job.metadata.name,
            storage_path=f"{ray.get_runtime_context().get_temp_dir()}/train",
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    failure = _follow(trainer.fit, mailbox, sink=sink, stop=stop)
    steps_done, reported = ray.get(mailbox.outcome.remote())
    if reported is not None:
        raise _reported_error(*reported) from failure
    if failure is not None or steps_done is None:
        raise TrainingFailed(f"{_cause(failure)}; the same command goes on from the newest checkpoint") from failure
    return int(steps_done)


def _scaling(run: TrainingRun) -> Any:
    """One Ray Train worker per GPU, or per share of the CPUs."""
    import ray

    workers = run.job.spec.workers
    gpu = run.plan.device == "gpu"
    cpus_per_node = ray.cluster_resources().get("CPU", 1.0) / workers.nodes
    workers_per_node = run.plan.world_size // workers.nodes
    cpus = max(1, int(cpus_per_node // workers_per_node))
    return ray.train.ScalingConfig(
        num_workers=run.plan.world_size, use_gpu=gpu, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {})
    )


def _follow(fit: Callable[[], Any], mailbox: Any, *, sink: Sink, stop: threading.Event) -> Exception | None:
    """Pass events on until `fit` ends; what it raised. It runs in a thread, since Ray would take over Ctrl-C in the main one."""
    import ray

    raised: list[Exception] = []

    def fit_in_thread() -> None:
        try:
            fit()
        except Exception as error:  # whatever it is, it is looked at below, in the thread that can tell the user
            raised.append(error)

    thread = threading.Thread(target=fit_in_thread, name="ray-train", daemon=True)
    thread.start()
    asked = False
    while thread.is_alive():
        if stop.is_set() and not asked:
            sink.record(Stopping(reason="a stop was requested; a checkpoint follows this step"))
            mailbox.request_stop.remote()
            asked = True
        for event in ray.get(mailbox.take.remote()):
            sink.record(event)
        thread.join(POLL_SECONDS)
    for event in ray.get(mailbox.take.remote()):
        sink.record(event)
    return raised[0] if raised else None


def _reported_error(reason: str, message: str) -> FineTuneError:
    """The error that a worker named, as the class that has its exit code."""
    kind = getattr(errors, reason, None)
    if isinstance(kind, type) and issubclass(kind, FineTuneError) and not issubclass(kind, InvalidSpec):
        return kind(message)
    return TrainingFailed(message)


def _cause(failure: Exception | None) -> str:
    """One line about what ended the workers: the rank that died before the ranks that waited for it."""
    failures: dict[int, Exception] = getattr(failure, "worker_failures", {})
    died = sorted(rank for rank, error in failures.items() if type(error).__name__ in _DEATHS)
    if died:
        return f"worker {', '.join(map(str, died))} of the run died (killed, or out of memory)"
    for rank, error in sorted(failures.items()):
        return f"worker {rank} failed: {_NO_GPU if _NO_GPU_TEXT in str(error) else _last_line(error)}"
    return f"the workers failed: {_last_line(failure)}" if failure else "the workers ended without a result"


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
