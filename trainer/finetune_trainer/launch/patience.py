"""How long a driver waits for a sign that its ranks get on, whatever Ray says of them. Pure: it is told the time.

In: signs, each with what was done, and the number of steps. Out: None, or what to tell once there has been none for too long. A sign
is a step, or a part of something long: of loading, of an evaluation, of a checkpoint. That a rank is alive is no sign: it may be
stopped, or wait in a collective for one that is gone.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

# No part of a step, of loading or of a checkpoint takes so long that works.
SHORTEST_SECONDS: Final = 600.0
# Steps differ in length, but not by this factor.
STEPS: Final = 10
# A CPU may take as long as this for the first step of a model that it is too slow for; after it the steps' length is known.
FIRST_CPU_STEP_SECONDS: Final = 3600.0
_RECENT: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What rank 0 and the others have told so far: `count` grows with each sign, `steps` with each step."""

    count: int = 0
    steps: int = 0
    what: str = "starting"


@dataclass(slots=True, kw_only=True)
class Patience:
    """Counts the seconds since the newest sign."""

    now: Callable[[], float]
    shortest_seconds: float = SHORTEST_SECONDS
    first_step_seconds: float = SHORTEST_SECONDS
    _sign: Sign = Sign()
    _since: float = field(init=False)
    _step_at: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def __post_init__(self) -> None:
        self._since = self.now()

    @property
    def seconds(self) -> float:
        """How long it waits: max(shortest, n x the median step)."""
        known = STEPS * median(self._recent) if self._recent else self.first_step_seconds
        return max(self.shortest_seconds, known)

    def see(self, sign: Sign) -> None:
        """Take the newest sign in."""
        now = self.now()
        if sign.count != self._sign.count:
            self._since = now
        if new := sign.steps - self._sign.steps:
            if self._step_at is not None:
                self._recent.append((now - self._step_at) / new)
            self._step_at = now
        self._sign = sign

    def exhausted(self) -> str | None:
        """What to tell when there was no sign for too long.

        >>> clock = iter([0.0, 1.0, 700.0])
        >>> patience = Patience(now=lambda: next(clock))
        >>> patience.see(Sign(count=1, steps=1, what="step 1"))
        >>> patience.exhausted()
        'no step and no progress of any other kind for 699 s; the last was step 1'
        """
        waited = self.now() - self._since
        if waited < self.seconds:
            return None
        return f"no step and no progress of any other kind for {waited:.0f} s; the last was {self._sign.what}"
