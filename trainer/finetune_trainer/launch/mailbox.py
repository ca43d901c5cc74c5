"""The mailbox between ranks and driver: what was told and nobody has read yet, and what the driver asks for. One call at a time."""

from finetune_trainer.launch.patience import Sign
from finetune_trainer.reporting.events import Event


class Mailbox:
    """Ranks call its first five methods (`training.surroundings.Driver`), the driver the others. With Ray it is an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._steps_done: int | None = None
        self._sign = Sign()

    def progress(self, what: str) -> None:
        """Any rank: a part of something long is done."""
        self._sign = Sign(count=self._sign.count + 1, steps=self._sign.steps, what=what)

    def record(self, event: Event) -> None:
        """Rank 0: something happened."""
        self._events.append(event)

    def fail(self, reason: str, message: str) -> None:
        """Any rank: it ends with this FineTuneError. The first counts, later ones follow from it."""
        self._failure = self._failure or (reason, message)

    def finish(self, steps_done: int) -> None:
        """Rank 0: the loop ended after so many steps."""
        self._steps_done = steps_done

    def stop_requested(self) -> bool:
        """Rank 0, after each step: whether the driver asked for a stop."""
        steps = self._sign.steps + 1
        self._sign = Sign(count=self._sign.count + 1, steps=steps, what=f"step {steps} of this attempt")
        return self._stop

    def request_stop(self) -> None:
        """Driver: commit a checkpoint after the current step and end."""
        self._stop = True

    def sign(self) -> Sign:
        """Driver: the newest sign of progress."""
        return self._sign

    def take(self) -> list[Event]:
        """Driver: the events since the last call."""
        events, self._events = self._events, []
        return events

    def outcome(self) -> tuple[int | None, tuple[str, str] | None]:
        """Driver: steps done if the loop ended, and the first failure."""
        return self._steps_done, self._failure
