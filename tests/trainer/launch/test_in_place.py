"""Which ends of workers lead to new ones in the same attempt, and what is told; tests/trainer/pods/test_in_place.py kills a rank."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from finetune_api.errors import NonFiniteLoss, OutOfMemory, TrainingFailed, WorkerLost, WorkerPreempted
from finetune_trainer.launch.driver import Death
from finetune_trainer.launch.in_place import MOST_RESTARTS, Restarts, train
from finetune_trainer.launch.mailbox import Mailbox
from finetune_trainer.pods.last_lines import last_lines
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Restarted, Restarting

COMMITTED = CheckpointCommitted(step=4, seconds=1.0, bytes=1, key="k")


def death(error: TrainingFailed, *, departed: Sequence[str] = (), ranks: Sequence[int] = ()) -> Death:
    return Death(error=error, departed=departed, ranks=ranks)


KILLED = death(TrainingFailed("worker 1 of the run died"), ranks=[1])
LOST = death(WorkerLost("w1 left Ray"), departed=["w1"])
TAKEN = death(WorkerPreempted("the workers were taken away"))
FULL = death(OutOfMemory("its node's memory ran out"), ranks=[1])
WORDS = death(TrainingFailed("worker 0 failed: ValueError: x"))


@pytest.mark.parametrize(
    ("dead", "failures_left", "has_committed", "allowed"),
    [
        (KILLED, 1, True, True),
        (KILLED, 0, True, False),  # one more than the job may have
        (KILLED, 1, False, False),  # it would begin anew for ever
        (LOST, 0, True, True),
        (LOST, 0, False, False),
        (TAKEN, 0, True, True),
        (FULL, 9, True, False),  # the next attempt has a smaller micro-batch
        (WORDS, 9, True, False),  # it said itself what is wrong
    ],
    ids=["killed", "killed, nothing left", "killed, nothing kept", "lost", "lost, nothing kept", "taken", "out of memory", "an error"],
)
def test_which_deaths_lead_to_a_new_start(dead: Death, failures_left: int, has_committed: bool, allowed: bool) -> None:
    assert Restarts(failures_left).allow(dead, has_committed=has_committed) is allowed


def test_starts_are_counted_those_that_are_charged_apart() -> None:
    restarts = Restarts(failures_left=2)
    for dead in (KILLED, LOST, KILLED):
        assert restarts.allow(dead, has_committed=True)
        restarts.done(dead)
    assert (restarts.count, restarts.charged) == (3, 2)
    assert not restarts.allow(KILLED, has_committed=True)
    assert restarts.allow(LOST, has_committed=True)
    restarts.count = MOST_RESTARTS
    assert not restarts.allow(LOST, has_committed=True)


class ActorDiedError(Exception):
    """As Ray's; the driver knows it by its name."""


class GroupFailed(Exception):
    """As Ray Train's WorkerGroupError."""

    def __init__(self) -> None:
        super().__init__("the group failed")
        self.worker_failures = {1: ActorDiedError("killed"), 0: RuntimeError("connection closed")}


@dataclass
class Workers:
    """Lives of workers, one after another: what each does with its mailbox until it ends. A life that is an error doesn't begin."""

    lives: list[Callable[[Mailbox], None] | TrainingFailed]
    hosts: list[str] = field(default_factory=list)
    mailbox: Any = field(default_factory=Mailbox)

    def fit(self) -> None:
        live = self.lives.pop(0)
        assert callable(live)
        live(self.mailbox)

    def ask(self, question: Callable[[], Any]) -> Any:
        return question()

    def gone(self) -> list[str]:
        return []

    def departed(self, failure: Exception) -> list[str]:
        return self.hosts

    def hosts_of(self, ranks: Sequence[int]) -> list[str]:
        return [f"host-of-{rank}" for rank in ranks]

    def renewed(self, given_up: Callable[[], bool]) -> "Workers":
        if isinstance(failed := self.lives[0], TrainingFailed):
            raise failed
        return Workers(self.lives)


@dataclass
class Told:
    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        raise AssertionError("whoever made it closes it")

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def killed_after_a_checkpoint(mailbox: Mailbox) -> None:
    mailbox.progress("loading")
    mailbox.record(COMMITTED)
    raise GroupFailed()


def killed_at_once(mailbox: Mailbox) -> None:
    raise GroupFailed()


def finishes(mailbox: Mailbox) -> None:
    mailbox.progress("loading")
    mailbox.finish(9)


def diverges(mailbox: Mailbox) -> None:
    mailbox.progress("loading")
    mailbox.record(COMMITTED)
    mailbox.fail("NonFiniteLoss", "step 5")
    raise RuntimeError("rank 0 failed")


def followed(workers: Workers, restarts: Restarts, told: Told, stop: threading.Event | None = None) -> int:
    return train(workers, restarts, gpu=True, sink=told, stop=stop or threading.Event())


def test_a_rank_that_was_killed_and_its_group_again() -> None:
    told, restarts = Told(), Restarts(failures_left=3)
    assert followed(Workers([killed_after_a_checkpoint, killed_after_a_checkpoint, finishes]), restarts, told) == 9
    assert told.kinds == ["CheckpointCommitted", "Restarting", "Restarted"] * 2
    ends, again = told.events[1:3]
    assert isinstance(ends, Restarting)
    assert (ends.reason, ends.hosts) == ("TrainingFailed", ("host-of-1",))
    assert ends.message.startswith("worker 1 of the run died (killed, or out of memory)")
    assert isinstance(again, Restarted)
    assert (again.count, again.charged, restarts.count) == (1, 1, 2)


def test_a_node_that_left_is_told_and_not_charged() -> None:
    told, restarts = Told(), Restarts(failures_left=0)
    assert followed(Workers([killed_after_a_checkpoint, finishes], hosts=["pod-7"]), restarts, told) == 9
    ends = told.events[1]
    assert isinstance(ends, Restarting)
    assert (ends.reason, ends.hosts) == ("WorkerLost", ("pod-7",))
    assert (restarts.count, restarts.charged) == (1, 0)


def test_workers_that_do_not_come_back_end_the_attempt_as_their_death_would_have_and_once() -> None:
    """Whether their nodes don't join, or they die before any of them says a word."""
    for then in (TrainingFailed("1 of 2 nodes joined Ray"), killed_at_once):
        told, restarts = Told(), Restarts(failures_left=3)
        with pytest.raises(WorkerLost, match=r"^pod-7 left Ray .*; they did not start again in the same attempt: ") as failed:
            followed(Workers([killed_after_a_checkpoint, then], hosts=["pod-7"]), restarts, told)
        assert type(failed.value) is WorkerLost
        assert told.kinds == ["CheckpointCommitted", "Restarting"]
        assert (restarts.count, restarts.charged) == (0, 0)


def test_what_a_rank_says_itself_ends_the_attempt_also_after_a_new_start() -> None:
    told = Told()
    with pytest.raises(NonFiniteLoss, match=r"^step 5$") as failed:
        followed(Workers([killed_after_a_checkpoint, diverges]), Restarts(failures_left=3), told)
    assert last_lines(failed.value), "whoever looks for what came first finds it"
    assert told.kinds == ["CheckpointCommitted", "Restarting", "Restarted", "CheckpointCommitted"]


def test_nobody_starts_again_after_a_request_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingFailed, match="worker 1 of the run died"):
        followed(Workers([killed_after_a_checkpoint, finishes]), Restarts(failures_left=3), told := Told(), stop)
    assert "Restarting" not in told.kinds
