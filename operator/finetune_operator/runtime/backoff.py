"""How long to wait before the next try, when the other side is a server that many clients try again."""

import random
from typing import Final

FIRST_SECONDS: Final = 0.5
LAST_SECONDS: Final = 30.0


class Backoff:
    """Doubling delays, each times 0.5 to 1.5, so that clients that failed together don't come back together."""

    def __init__(self, first_seconds: float = FIRST_SECONDS, last_seconds: float = LAST_SECONDS) -> None:
        self._first = self._next = first_seconds
        self._last = last_seconds

    def seconds(self, *, at_least: float | None = None, at_most: float | None = None) -> float:
        """The delay before the next try; `at_least` is what the server asked for, `at_most` for waits that a person notices."""
        wait = self._next * random.uniform(0.5, 1.5)
        self._next = min(self._next * 2, self._last)
        wait = min(wait, at_most) if at_most is not None else wait
        return max(wait, at_least or 0.0)

    def reset(self) -> None:
        """All is well again."""
        self._next = self._first
