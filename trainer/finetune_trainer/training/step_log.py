"""What steps come to between two StepDone events: time, tokens, and the time that passed around them.

In: each step's seconds and tokens. Out: their sums since the event before, so that nothing is lost between logged steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """Of the steps since the event before. `wall_seconds` also holds evaluations, checkpoints and waits.

    `wall_tokens_per_second`: over all steps so far, with all of that.
    """

    steps: int
    seconds: float
    tokens: int
    supervised_tokens: int
    wall_seconds: float
    wall_tokens_per_second: float


@dataclass(slots=True)
class StepLog:
    """Adds steps up from when it is made on."""

    now: Callable[[], float] = time.monotonic
    steps: int = 0
    _seconds: float = 0.0
    _tokens: int = 0
    _supervised_tokens: int = 0
    _all_tokens: int = 0
    _began: float = field(init=False)
    _taken: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._taken = self.now()

    def add(self, *, seconds: float, tokens: int, supervised_tokens: int) -> None:
        """One more step is done."""
        self.steps += 1
        self._seconds += seconds
        self._tokens += tokens
        self._supervised_tokens += supervised_tokens
        self._all_tokens += tokens

    def take(self) -> Since:
        """The sums since the last call, which begin anew."""
        now = self.now()
        since = Since(
            steps=self.steps,
            seconds=self._seconds,
            tokens=self._tokens,
            supervised_tokens=self._supervised_tokens,
            wall_seconds=now - self._taken,
            wall_tokens_per_second=self._all_tokens / (now - self._began),
        )
        self.steps, self._seconds, self._tokens, self._supervised_tokens, self._taken = 0, 0.0, 0, 0, now
        return since
