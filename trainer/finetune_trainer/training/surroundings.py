"""What a launcher gives a rank: its place among all, and somebody to talk to. Ray Train's workers and plain processes get the same."""

from dataclasses import dataclass
from typing import Protocol

from finetune_trainer.reporting.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a rank is. `worker`: which of its node's `workers` ranks."""

    rank: int
    node: int
    worker: int
    workers: int


class Driver(Protocol):
    """The driver, as a rank sees it. Only what returns something, `fail` and `finish` wait for an answer."""

    def progress(self, what: str) -> None:
        """A part of something long is done."""

    def record(self, event: Event) -> None:
        """Rank 0: something happened."""

    def fail(self, reason: str, message: str) -> None:
        """This rank ends with this FineTuneError. The first that is told counts: later ones follow from it."""

    def finish(self, steps_done: int) -> None:
        """Rank 0: the loop ended after so many steps."""

    def stop_requested(self) -> bool:
        """Rank 0, after each step: whether the driver asks for a stop."""
        ...
