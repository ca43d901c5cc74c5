"""The ranks of an attempt as Ray Train's workers. Ray is already running: this machine's own (`ray_session`), or a cluster's.

The only file that knows Ray Train, with `process_group`. On a cluster the driver runs on the head's node, and workers on all others.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finetune_api.errors import TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.launch.bounded import within
from finetune_trainer.launch.driver import last_line, was_preempted
from finetune_trainer.launch.mailbox import Mailbox
from finetune_trainer.launch.process_group import checked_torch_config, cpu_share
from finetune_trainer.reporting.events import Event
from finetune_trainer.training.places import Placement
from finetune_trainer.training.stop_files import StopFiles
from finetune_trainer.training.surroundings import Position

# How long nodes may take to join Ray. KubeRay starts the driver when its pods run, and their Ray needs a moment more.
JOIN_SECONDS = 300.0

# How long an answer of the mailbox may take. It lives on the driver's node and never works: a late answer is a busy machine.
ANSWER_SECONDS = 30.0
# How long a lost node may take to be noticed by Ray's head: the ranks that waited for it fail at once, and their words only say that a
# connection was closed.
NOTICE_SECONDS = 45.0


class RayWorkers:
    """One Ray Train worker a rank."""

    def __init__(
        self,
        run: TrainingRun,
        placement: Placement,
        *,
        attempt: str,
        stop_files: StopFiles | None = None,
        start: int = 1,
        given_up: Callable[[], bool] | None = None,
    ) -> None:
        """Wait for the nodes. `attempt` names the logs that are kept of it, of its first `start` and of later ones.

        `stop_files`: where each worker's pod is asked to stop; None on one machine. `given_up`: whether nobody waits any more; with it,
        only nodes count that answer, for some may be lost already. Raises TrainingFailed when too few nodes join.
        """
        import ray
        from ray.train.torch import TorchTrainer
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node: a worker's may go away, and with it why.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
        self._run, self._placement, self._attempt, self._stop_files, self._start = run, placement, attempt, stop_files, start
        self._nodes = _joined(placement.nodes(run), gpu=run.plan.device == "gpu", given_up=given_up)
        self._trainer = TorchTrainer(
            _rank,
            train_loop_config={
                "run": run.to_json(),
                "placement": placement,
                "stop_files": stop_files,
                "mailbox": self.mailbox,
                "attempt": attempt,
                "start": start,
            },
            torch_config=checked_torch_config(
                "nccl" if run.plan.device == "gpu" else "gloo",
                self.mailbox,
                timeout_seconds=run.job.spec.workers.collective_timeout_seconds,
            ),
            scaling_config=_scaling(run, self._nodes),
            # A group that failed ends here; whether there is another one is ours to say (`in_place`). Ray would start it on the nodes
            # that it had (docs/decisions/0031), and without the second limit after a preemption, for ever (0008).
            run_config=ray.train.RunConfig(
                name=run.job.metadata.name,
                storage_path=f"{ray.get_runtime_context().get_temp_dir()}/train",
                failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
            ),
        )

    def fit(self) -> None:
        """Train."""
        self._trainer.fit()

    def ask(self, question: Any) -> Any:
        """What the mailbox's actor answers in time."""
        import ray
        from ray.exceptions import GetTimeoutError

        with _answering():
            try:
                return ray.get(question.remote(), timeout=ANSWER_SECONDS)
            except GetTimeoutError:
                return None

    def gone(self) -> list[str]:
        """Hosts of the run that are not in Ray now. Of a head that doesn't answer nothing is known."""
        import ray

        with _answering():
            alive = {node["NodeID"] for node in within(ANSWER_SECONDS, ray.nodes, otherwise=self._nodes) if node.get("Alive", True)}
        return [str(node["NodeManagerHostname"]) for node in self._nodes if node["NodeID"] not in alive]

    def departed(self, failure: Exception) -> list[str]:
        """Hosts that are no longer in Ray. One that ranks on others have noticed is waited for: Ray's head takes longer.

        A node that runs a task of ours now isn't lost. The driver's own needn't be asked.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        asked, others = _Asked(), [node for node in self._nodes if node["NodeID"] != here]
        deadline = time.monotonic() + NOTICE_SECONDS
        while True:
            gone = self.gone()
            with _answering():
                all_live = len(asked.answering(others)) == len(others)
            if gone or all_live or was_preempted(failure) or time.monotonic() >= deadline:
                return gone
            time.sleep(0.5)

    def renewed(self, given_up: Callable[[], bool]) -> "RayWorkers":
        """The same ranks once more, on nodes that answer. The mailbox is another one: a rank that lives on unseen speaks to nobody."""
        import ray

        ray.kill(self.mailbox)
        return RayWorkers(
            self._run,
            self._placement,
            attempt=self._attempt,
            stop_files=self._stop_files,
            start=self._start + 1,
            given_up=given_up,
        )

    def hosts_of(self, ranks: Sequence[int]) -> list[str]:
        """The ranks of a node follow one another, as many on each."""
        each = self._run.plan.world_size // len(self._nodes)
        return list(dict.fromkeys(str(self._nodes[rank // each]["NodeManagerHostname"]) for rank in ranks))


@contextmanager
def _answering() -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:  # the mailbox is gone, and with it whatever ran this driver's Ray
        raise TrainingFailed(
            f"Ray on the driver's node no longer answers: {last_line(error)}; the same command goes on from the newest checkpoint"
        ) from error


def _rank(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker, with torch.distributed initialised."""
    import ray.train

    from finetune_trainer.training.rank import train_on_rank

    context = ray.train.get_context()
    train_on_rank(
        TrainingRun.from_json(config["run"]),
        config["placement"],
        driver=RayDriver(config["mailbox"]),
        position=Position(
            rank=context.get_world_rank(),
            node=context.get_node_rank(),
            worker=context.get_local_rank(),
            workers=context.get_local_world_size(),
        ),
        attempt=config["attempt"],
        start=config["start"],
        stop_files=config["stop_files"],
    )


@dataclass(frozen=True, slots=True)
class RayDriver:
    """A rank's line to the mailbox's actor."""

    mailbox: Any

    def progress(self, what: str) -> None:
        """Not waited for."""
        self.mailbox.progress.remote(what)

    def record(self, event: Event) -> None:
        """Not waited for."""
        self.mailbox.record.remote(event)

    def fail(self, reason: str, message: str) -> None:
        """Once it returns, the driver has it."""
        _wait_for(self.mailbox.fail.remote(reason, message))

    def finish(self, steps_done: int) -> None:
        """Once it returns, the driver has it."""
        _wait_for(self.mailbox.finish.remote(steps_done))

    def stop_requested(self) -> bool:
        """As the driver asked."""
        return bool(_wait_for(self.mailbox.stop_requested.remote()))


def _wait_for(reference: Any) -> Any:
    import ray

    return ray.get(reference)


Node = Mapping[str, Any]
"""One of Ray's nodes, as `ray.nodes()` describes it."""


def _joined(count: int, *, gpu: bool, given_up: Callable[[], bool] | None) -> list[Node]:
    """The nodes to train on, by host name; with `given_up`, those that answer. Raises TrainingFailed when there aren't `count` in time."""
    import ray

    deadline, asked = time.monotonic() + JOIN_SECONDS, _Asked()
    while len(found := _usable(worker_nodes(ray.nodes(), gpu=gpu), asked if given_up else None)) < count:
        if given_up is not None and given_up():
            raise TrainingFailed("a stop was asked for before they could")
        if time.monotonic() > deadline:
            kind = "with GPUs " if gpu else ""
            raise TrainingFailed(f"{len(found)} of {count} nodes {kind}joined Ray within {JOIN_SECONDS:.0f} s; look at the worker pods")
        time.sleep(1.0)
    return found[:count]


def _usable(nodes: list[Node], asked: "_Asked | None") -> list[Node]:
    return nodes if asked is None else asked.answering(nodes)


class _Asked:
    """Nodes that were asked for a sign of life: a task that has to run on them. Ray calls a node alive for half a minute after its end."""

    def __init__(self) -> None:
        self._signs: dict[str, Any] = {}

    def answering(self, nodes: Sequence[Node]) -> list[Node]:
        """Those that have answered by now; each is asked once, and waited for a second."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        for node in nodes:
            if (there := node["NodeID"]) not in self._signs:
                only = NodeAffinitySchedulingStrategy(there, soft=False)
                self._signs[there] = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=only)(_lives).remote()
        signs = [self._signs[node["NodeID"]] for node in nodes]
        answered = set(ray.wait(signs, num_returns=len(signs), timeout=1.0)[0]) if signs else set()
        return [node for node, sign in zip(nodes, signs, strict=True) if sign in answered and _has_value(sign)]


def _lives() -> bool:
    return True


def _has_value(sign: Any) -> bool:
    """Whether a task that has ended did what it had to; that of a node which is gone ends with an error."""
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(sign))
    except RayError:
        return False


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
