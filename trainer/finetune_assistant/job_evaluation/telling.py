"""How far an evaluation is, as events of a run: a line a second at most, however fast a model answers."""

import time
from collections.abc import Callable
from typing import Final

from finetune_trainer.reporting.events import Event, Notice, StageAdvanced, StageStarted

_PACE_SECONDS: Final = 1.0


class Told:
    """What the rooms that ask and measure tell, recorded. Notes are kept, each once, and in a job's words."""

    def __init__(
        self, record: Callable[[Event], None], words: Callable[[str], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`record` may raise Interrupted, which ends the evaluation."""
        self._record, self._words, self._clock = record, words, clock
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """What a reader of the results must know."""
        text = self._words(text)
        if text not in self.notes:
            self.notes.append(text)
            self._record(Notice(message=text))

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A function for (done, of how many) of one thing; other totals, and a step back, begin anew."""
        last_done, last_total, told_at = -1, -1, 0.0

        def say(done: int, total: int) -> None:
            nonlocal last_done, last_total, told_at
            if total != last_total or done < last_done:
                self._record(StageStarted(stage="evaluation", total=total, unit=f"requests ({what})"))
                told_at = 0.0
            last_done, last_total = done, total
            if done == total or self._clock() - told_at >= _PACE_SECONDS:
                told_at = self._clock()
                self._record(StageAdvanced(stage="evaluation", done=done))

        return say
