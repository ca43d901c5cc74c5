"""Which rank is slow: what ranks took for their own work, compared. Pure.

In: each rank's seconds a token, at each logging step. Out: how far the slowest is from the median, and a word when that lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

# So many times the median's time is slow, and below so many times it is well again. Devices of one kind differ by a few per cent.
SLOW: Final = 1.3
WELL_AGAIN: Final = 1.15
# How often in a row, and how long: a moment's disturbance is no news.
LEAST_TIMES: Final = 5
LEAST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """By rank, how many times the median's time it takes; None where that isn't known."""

    ratios: tuple[float | None, ...]

    @property
    def times(self) -> float:
        """Of the slowest rank."""
        return max(ratio for ratio in self.ratios if ratio is not None)

    @property
    def rank(self) -> int:
        """The slowest."""
        return self.ratios.index(self.times)


def spread(seconds: Sequence[float | None]) -> Spread | None:
    """By rank; None of a rank that has no number. Of an even number of ranks the faster of the middle two counts, so that of two the
    slower is compared with the faster. None of fewer than two numbers.

    >>> spread([1.0, 1.5]).ratios
    (1.0, 1.5)
    """
    known = [one for one in seconds if one]
    if len(known) < 2:
        return None
    middle = median_low(known)
    return Spread(ratios=tuple(one / middle if one else None for one in seconds))


@dataclass(slots=True)
class SlowRank:
    """Follows the spreads of a run, and tells of a rank that stays slow: once, until it is well again. `names`: of each rank."""

    names: Sequence[str]
    _rank: int | None = None
    _times: int = 0
    _seconds: float = 0.0
    _told: bool = False

    def see(self, found: Spread | None, seconds: float) -> str | None:
        """What is to be told, if anything is new. `seconds`: since the last one."""
        if found is None:
            return None
        if self._told:
            own = None if self._rank is None else found.ratios[self._rank]
            if own is None or own >= WELL_AGAIN:
                return None
            told = f"{self.names[self._rank or 0]} is no longer slower than the others"
            self._rank, self._times, self._seconds, self._told = None, 0, 0.0, False
            return told
        if found.times < SLOW or found.rank != self._rank:
            self._times, self._seconds = 0, 0.0
            self._rank = found.rank if found.times >= SLOW else None
            if self._rank is None:
                return None
        self._times, self._seconds = self._times + 1, self._seconds + seconds
        if self._times < LEAST_TIMES or self._seconds < LEAST_SECONDS:
            return None
        self._told = True
        return f"{self.names[found.rank]} takes {found.times:.2f} times as long as the median for the same work, and all others wait for it"
