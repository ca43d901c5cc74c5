"""The driver: a TrainingRun becomes Ray Train workers, and what they report becomes events.

In: a frozen run, where its files are, a sink and a request to stop. Out: the number of steps done. Ray is already running.
Workers talk to the driver through one small actor, the mailbox; the driver never looks into a worker. Nor does it trust Ray to
notice that one is gone: whatever Ray does, an attempt without a sign of progress ends (`patience`).
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from finetune_api import errors
from finetune_api.errors import FineTuneError, InvalidSpec, NoProgress, TrainingFailed, WorkerLost, WorkerPreempted
from finetune_api.training_run import TrainingRun
from finetune_trainer.launch import patience as limits
from finetune_trainer.launch.bounded import in_thread, within
from finetune_trainer.launch.patience import Patience, Sign
from finetune_trainer.reporting.events import Event, Sink, Stopping
from finetune_trainer.training.places import Placement
from finetune_trainer.training.stop_files import StopFiles

# How often the driver empties the mailbox. Progress bars need no more, and an empty call costs about a millisecond.
POLL_SECONDS = 0.2

# What Ray Train 2.60 gives for a worker whose process is gone.
_DEATHS = {"ActorDiedError", "RayActorError", "WorkerCrashedError", "WorkerHealthCheckFailedError", "OutOfMemoryError", "NodeDiedError"}

# How long nodes may take to join Ray. KubeRay starts the driver when its pods run, and their Ray needs a moment more.
JOIN_SECONDS = 300.0

# How long an answer of the mailbox may take. It lives on the driver's node and never works: a late answer is a busy machine.
ANSWER_SECONDS = 30.0
# How long Ray may take to end the workers once the loop has ended, and how long a lost node may take to be noticed by Ray's head: the
# ranks that waited for it fail at once, and their words only say that a connection was closed.
ENDING_SECONDS = 120.0
NOTICE_SECONDS = 45.0
# How often Ray's head is asked which nodes are there, and how long after it has lost one Ray Train may take to end the workers. Nothing
# can be committed any more by then, and a pod that waits for a checkpoint would keep its GPUs for it.
LOOK_SECONDS = 5.0
LEFT_SECONDS = 30.0


class Mailbox:
    """What rank 0 wrote and nobody has read yet, and what the driver asks of it. Runs as a Ray actor on the driver's node."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._steps_done: int | None = None
        self._sign = Sign()

    def progress(self, what: str) -> None:
        """Any rank: a part of something long is done."""
        self._sign = Sign(count=self._sign.count + 1, steps=self._sign.steps, what=what)

    def sign(self) -> Sign:
        """Driver: the newest sign of progress."""
        return self._sign

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
        """Rank 0, after each step: whether the driver asked for a stop."""
        steps = self._sign.steps + 1
        self._sign = Sign(count=self._sign.count + 1, steps=steps, what=f"step {steps} of this attempt")
        return self._stop

    def take(self) -> list[Event]:
        """Driver: the events since the last call."""
        events, self._events = self._events, []
        return events

    def outcome(self) -> tuple[int | None, tuple[str, str] | None]:
        """Driver: steps done if the loop ended, and the first failure."""
        return self._steps_done, self._failure


def train(
    run: TrainingRun, placement: Placement, *, sink: Sink, stop: threading.Event, attempt: str, stop_files: StopFiles | None = None
) -> int:
    """Run the workers until they are done or stopped; the number of optimizer steps that are done and committed.

    `attempt` names the logs that are kept of it. `stop_files`: where each worker's pod is asked to stop; None on one machine.
    Raises the FineTuneError that a worker ended with, or TrainingFailed when one died without a word.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from finetune_trainer.launch.process_group import checked_torch_config
    from finetune_trainer.training.rank import train_on_rank

    # On the driver's node: a worker's may go away, and with it why.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    nodes = _joined(placement.nodes(run), gpu=run.plan.device == "gpu")
    trainer = TorchTrainer(
        train_on_rank,
        train_loop_config={"run": run.to_json(), "placement": placement, "stop_files": stop_files, "mailbox": mailbox, "attempt": attempt},
        torch_config=checked_torch_config("nccl" if run.plan.device == "gpu" else "gloo", mailbox),
        scaling_config=_scaling(run, nodes),
        # A failed attempt ends here; the next one is another driver's, which takes the newest checkpoint from storage. Without the
        # second, Ray would start the group anew after a preemption, for ever, and on nodes that are gone (docs/decisions/0008).
        run_config=ray.train.RunConfig(
            name=run.job.metadata.name,
            storage_path=f"{ray.get_runtime_context().get_temp_dir()}/train",
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
        ),
    )

    def ask(question: Any) -> Any:
        """The mailbox's answer; None when there is none in time."""
        with suppress(GetTimeoutError):
            return ray.get(question.remote(), timeout=ANSWER_SECONDS)

    first_step = limits.SHORTEST_SECONDS if run.plan.device == "gpu" else limits.FIRST_CPU_STEP_SECONDS
    patience = Patience(now=time.monotonic, shortest_seconds=limits.SHORTEST_SECONDS, first_step_seconds=first_step)
    try:
        failure = follow(trainer.fit, mailbox, ask, patience, lambda: _gone(nodes), sink=sink, stop=stop)
        done, reported = ask(mailbox.outcome) or (None, None)
    except RayError as error:  # the mailbox is gone, and with it whatever ran this driver's Ray
        raise TrainingFailed(
            f"Ray on the driver's node no longer answers: {_last_line(error)}; the same command goes on from the newest checkpoint"
        ) from error
    if failure is not None and done is None and reported is None:
        raise lost(failure, _departed(nodes, failure)) from failure
    return steps_done(done, reported, failure)


def steps_done(done: int | None, reported: tuple[str, str] | None, failure: Exception | None) -> int:
    """What the workers came to, from the mailbox's outcome and from what Ray says. Raises the error that they ended with.

    A pod that was asked to stop goes as soon as its checkpoint is committed: Ray may see it die before it sees it done.
    """
    if reported is not None:
        raise _reported_error(*reported) from failure
    if done is None:
        raise TrainingFailed(f"{_cause(failure)}; the same command goes on from the newest checkpoint") from failure
    return done


Node = Mapping[str, Any]
"""One of Ray's nodes, as `ray.nodes()` describes it."""


def _joined(count: int, *, gpu: bool) -> list[Node]:
    """The nodes to train on, by host name. Raises TrainingFailed when fewer than `count` join in time."""
    import ray

    deadline = time.monotonic() + JOIN_SECONDS
    while len(found := worker_nodes(ray.nodes(), gpu=gpu)) < count:
        if time.monotonic() > deadline:
            kind = "with GPUs " if gpu else ""
            raise TrainingFailed(f"{len(found)} of {count} nodes {kind}joined Ray within {JOIN_SECONDS:.0f} s; look at the worker pods")
        time.sleep(1.0)
    return found[:count]


def worker_nodes(nodes: Sequence[Node], *, gpu: bool) -> list[Node]:
    """Those that are alive and have what workers need; a cluster's head has neither CPUs nor GPUs to give."""
    able = [node for node in nodes if node["Alive"] and node["Resources"].get("GPU" if gpu else "CPU", 0.0) > 0]
    return sorted(able, key=lambda node: (node["NodeManagerHostname"], node["NodeID"]))


def _scaling(run: TrainingRun, nodes: Sequence[Node]) -> Any:
    """One Ray Train worker per GPU, or per share of a node's CPUs, and as many on each node."""
    import ray

    gpu = run.plan.device == "gpu"
    workers_per_node = run.plan.world_size // len(nodes)
    share = cpu_share(min(node["Resources"].get("CPU", 0.0) for node in nodes), workers_per_node)
    resources = ({"CPU": share} if share else {}) | ({"GPU": 1} if gpu else {})
    # Packing alone would put all workers of two nodes on one that has the CPUs for them. Ray keeps the order of nodes, so that
    # the ranks of a node follow one another.
    here = [{"ray.io/node-id": node["NodeID"]} for node in nodes for _ in range(workers_per_node)]
    return ray.train.ScalingConfig(num_workers=run.plan.world_size, use_gpu=gpu, resources_per_worker=resources, label_selector=here)


def cpu_share(cpus: float, workers: int) -> float:
    """A worker's part of a node's CPUs: whole ones where there are enough, since Ray takes no other number above 1.

    >>> [cpu_share(cpus, 2) for cpus in (8.0, 5.0, 1.0, 0.0)]
    [4.0, 2.0, 0.5, 0.0]
    """
    return cpus // workers or cpus / workers


def follow(
    fit: Callable[[], Any],
    mailbox: Any,
    ask: Callable[[Any], Any],
    patience: Patience,
    gone: Callable[[], list[str]],
    *,
    sink: Sink,
    stop: threading.Event,
    poll_seconds: float = POLL_SECONDS,
) -> Exception | None:
    """Pass events on until `fit` ends; what it raised. It runs in a thread, since Ray would take over Ctrl-C in the main one.

    `gone`: hosts of the run that have left Ray. Also ends when the loop has ended and `fit` hasn't. Raises NoProgress when the patience
    is exhausted, and WorkerLost when hosts are gone and `fit` waits for them.
    """
    raised: list[Exception] = []

    def fit_in_thread() -> None:
        try:
            fit()
        except Exception as error:  # whatever it is, it is looked at below, in the thread that can tell the user
            raised.append(error)

    thread = in_thread(fit_in_thread)
    asked, ended_at = False, None
    looked_at, left_at = patience.now(), None
    while thread.is_alive():
        if stop.is_set() and not asked:
            sink.record(Stopping(reason="a stop was requested; a checkpoint follows this step"))
            mailbox.request_stop.remote()
            asked = True
        for event in ask(mailbox.take) or ():
            sink.record(event)
        sign = ask(mailbox.sign)
        if sign is not None:
            patience.see(sign)
        done, _ = ask(mailbox.outcome) or (None, None)
        if done is not None:
            ended_at = ended_at or patience.now()
            if patience.now() - ended_at >= ENDING_SECONDS:
                break
        elif (told := patience.exhausted()) is not None:
            raise NoProgress(f"{told}; the same command goes on from the newest checkpoint")
        elif patience.now() - looked_at >= LOOK_SECONDS:
            looked_at, hosts = patience.now(), gone()
            left_at = (left_at or looked_at) if hosts else None
            if left_at is not None and looked_at - left_at >= LEFT_SECONDS:
                raise _left(hosts)
        thread.join(poll_seconds)
    for event in ask(mailbox.take) or ():
        sink.record(event)
    return raised[0] if raised else None


def _departed(nodes: Sequence[Node], failure: Exception) -> list[str]:
    """Hosts of the run that are no longer in Ray. One that ranks on others have noticed is waited for: Ray's head takes longer."""
    deadline = time.monotonic() + (NOTICE_SECONDS if len(nodes) > 1 else 0.0)
    while True:
        gone = _gone(nodes)
        if gone or time.monotonic() >= deadline or _was_preempted(failure):
            return gone
        time.sleep(1.0)


def _gone(nodes: Sequence[Node]) -> list[str]:
    """Hosts of the run that are not in Ray now. Of a head that doesn't answer nothing is known."""
    import ray

    alive = {node["NodeID"] for node in within(ANSWER_SECONDS, ray.nodes, otherwise=nodes) if node.get("Alive", True)}
    return [str(node["NodeManagerHostname"]) for node in nodes if node["NodeID"] not in alive]


def lost(failure: Exception, departed: Sequence[str]) -> TrainingFailed:
    """What became of workers that ended without a word of their own. `departed`: hosts of the run that have left Ray."""
    where = f" on {', '.join(departed)}" if departed else ""
    again = "the same command goes on from the newest checkpoint"
    if _was_preempted(failure):
        return WorkerPreempted(f"the workers{where} were taken away by others; {again}")
    return _left(departed) if departed else TrainingFailed(f"{_cause(failure)}; {again}")


def _left(hosts: Sequence[str]) -> WorkerLost:
    return WorkerLost(
        f"{', '.join(hosts)} left Ray in the middle, and nobody said why; the same command goes on from the newest checkpoint"
    )


def _was_preempted(failure: Exception) -> bool:
    """Whether Ray was told that a worker's node goes (Ray 2.60): by a PreemptionError, or by a mark on the error of the worker's actor."""
    errors: dict[int, Exception] = getattr(failure, "worker_failures", {})
    deaths = [getattr(error, "health_check_failure", error) for error in errors.values()]
    return type(failure).__name__ == "PreemptionError" or any(getattr(error, "preempted", False) for error in deaths)


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
        return f"worker {rank} failed: {_last_line(error)}"
    return f"the workers failed: {_last_line(failure)}" if failure else "the workers ended without a result"


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
