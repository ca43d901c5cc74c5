"""How numbers of many rows are spread, in memory that does not grow with the rows.

In: whole numbers from 0. Out: how many there are, their sum, quantiles, and a histogram. Numbers below 256 are counted exactly, larger ones
by their first eight binary digits, less than one per cent off.
"""

from collections import Counter
from typing import Final

_WAITING: Final = 4096  # numbers that are counted together: one by one takes ten times as long


class Distribution:
    """Counts by value."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = self._largest = 0
        self._waiting: list[int] = []

    def add(self, value: int) -> None:
        """Count one number, below 2**53."""
        self._waiting.append(value)
        if len(self._waiting) == _WAITING:
            self._count_waiting()

    def _count_waiting(self) -> None:
        import numpy as np

        values = np.array(self._waiting, np.int64)
        self._waiting.clear()
        self._total += int(values.sum())
        self._largest = max(self._largest, int(values.max()))
        num_bits = np.frexp(values)[1]
        shift = np.maximum(num_bits - 8, 0)
        kept, counts = np.unique(values >> shift << shift, return_counts=True)
        for value, count in zip(kept.tolist(), counts.tolist(), strict=True):
            self._counts[value] += count

    @property
    def counts(self) -> Counter[int]:
        """How often each value was met, by its first eight binary digits."""
        if self._waiting:
            self._count_waiting()
        return self._counts

    @property
    def number(self) -> int:
        """How many numbers were counted."""
        return self.counts.total()

    @property
    def total(self) -> int:
        """Their sum, exact."""
        return self._total if self.counts else 0

    @property
    def largest(self) -> int:
        """The largest, exact; 0 of none."""
        return self._largest if self.counts else 0

    @property
    def mean(self) -> float:
        """Exact; 0 of none."""
        return self.total / self.number if self.counts else 0.0

    def quantile(self, share: float) -> int:
        """The smallest number that at least this share of all does not exceed; 0 of none.

        >>> several = Distribution()
        >>> for value in (1, 2, 3, 1000): several.add(value)
        >>> several.quantile(0.5), several.quantile(1.0), several.mean
        (2, 1000, 251.5)
        """
        wanted, met = share * self.number, 0
        for value in sorted(self.counts):
            met += self.counts[value]
            if met >= wanted:
                return value
        return 0

    def bins(self, most: int = 32) -> list[tuple[float, float, int]]:
        """(lower, upper, count) of at most `most` equal bins, from the smallest number on; the last holds the largest 1 %, too."""
        if not self.counts:
            return []
        low, high = min(self.counts), self.quantile(0.99) + 1
        width = -(-(high - low) // most)
        number = -(-(high - low) // width)
        found = [0] * number
        for value, count in self.counts.items():
            found[min((value - low) // width, number - 1)] += count
        return [(float(low + index * width), float(low + (index + 1) * width), count) for index, count in enumerate(found)]

    def described(self) -> dict[str, float]:
        """The numbers that a reader wants."""
        return {
            "mean": round(self.mean, 2),
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "largest": self.largest,
            "total": self.total,
        }
