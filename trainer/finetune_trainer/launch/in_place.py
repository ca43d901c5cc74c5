"""Workers start again in place: in the Ray that is there, by the driver that is there, within the attempt that runs.

In: workers that can be made anew, and how many failures the job may still have. Out: steps done, as of `driver.train`. A worker that died,
or whose node left, costs the steps since the newest checkpoint, and neither driver nor Ray nor the other pods. What else ends an attempt
still ends it, and so does a group that had committed nothing: docs/decisions/0031.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from finetune_api.errors import OutOfMemory, TrainingFailed, WorkerPreempted
from finetune_trainer.launch.driver import Death, Workers, run_once
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Restarted, Restarting, Sink

# In one attempt. Each time a checkpoint had been committed, so that this is no loop; but what Ray collects over many starts goes with it.
MOST_RESTARTS: Final = 10


class RenewableWorkers(Workers, Protocol):
    """Workers that can be made anew in the Ray that they had."""

    def renewed(self, given_up: Callable[[], bool]) -> "RenewableWorkers":
        """The same ranks once more, on nodes that are there and answer. What the former ones still tell, nobody reads.

        Raises TrainingFailed when too few nodes are there in time, or as soon as `given_up` says so.
        """
        ...

    def hosts_of(self, ranks: Sequence[int]) -> list[str]:
        """Hosts that these ranks were on."""
        ...


@dataclass(slots=True)
class Restarts:
    """Those of one attempt. `failures_left`: failures that the job may have and still go on."""

    failures_left: int
    count: int = 0
    charged: int = 0

    def allow(self, death: Death, *, has_committed: bool) -> bool:
        """Whether workers start again after this death. `has_committed`: those that died had committed a checkpoint of their own."""
        found_gone = death.departed or death.ranks or isinstance(death.error, WorkerPreempted)
        if isinstance(death.error, OutOfMemory) or not found_gone or not has_committed or self.count >= MOST_RESTARTS:
            return False
        return self.charged + charge(death) <= self.failures_left

    def done(self, death: Death) -> None:
        """They run again."""
        self.count += 1
        self.charged += charge(death)


def charge(death: Death) -> int:
    """1 for a process that ended where its node stayed. What others took, and nodes that left after a checkpoint, cost nothing."""
    return 0 if death.departed or isinstance(death.error, WorkerPreempted) else 1


def train(workers: RenewableWorkers, restarts: Restarts, *, gpu: bool, sink: Sink, stop: threading.Event) -> int:
    """`driver.train`; after a death that `restarts` allow, and unless a stop was asked for, with new workers."""
    former: _Former | None = None
    while True:
        group = _Group(sink, restarts, former)
        try:
            ended = run_once(workers, gpu=gpu, sink=group, stop=stop, began=group.begin)
        except TrainingFailed as error:
            if former is None or group.has_begun:
                raise
            raise former.unanswered(error) from error
        if not isinstance(ended, Death):
            return ended
        if former is not None and not group.has_begun:
            raise former.unanswered(ended.error) from ended.error
        if stop.is_set() or not restarts.allow(ended, has_committed=group.has_committed):
            raise ended.error
        former = _Former(ended, time.monotonic())
        hosts = ended.departed or workers.hosts_of(ended.ranks)
        sink.record(Restarting(reason=ended.error.reason, message=str(ended.error), hosts=tuple(hosts)))
        try:
            workers = workers.renewed(stop.is_set)
        except TrainingFailed as error:
            raise former.unanswered(error) from error


@dataclass(frozen=True, slots=True)
class _Former:
    """Workers that died, and when that was noticed."""

    death: Death
    at: float

    def unanswered(self, why: TrainingFailed) -> TrainingFailed:
        """The error of an attempt whose workers didn't come back: that of their death, which is counted once."""
        return type(self.death.error)(f"{self.death.error}; they did not start again in the same attempt: {why}")


@dataclass(slots=True)
class _Group:
    """A sink for the events of one start of workers, which remembers what became of them."""

    sink: Sink
    restarts: Restarts
    former: _Former | None
    has_begun: bool = False
    has_committed: bool = False

    def begin(self) -> None:
        """One of them lives."""
        self.has_begun = True
        if self.former is not None:
            self.restarts.done(self.former.death)
            seconds = round(time.monotonic() - self.former.at, 3)
            self.sink.record(Restarted(count=self.restarts.count, charged=self.restarts.charged, seconds=seconds))

    def record(self, event: Event) -> None:
        """Pass it on."""
        self.has_committed = self.has_committed or isinstance(event, CheckpointCommitted)
        self.sink.record(event)

    def close(self) -> None:
        """The sink is closed by who made it."""
