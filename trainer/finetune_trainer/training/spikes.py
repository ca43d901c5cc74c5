"""Losses that jump up: each step's, beside those of the steps before. Pure.

The median and the median deviation from it don't move for a spike, as mean and variance do. Losses fall, and by different data they
differ: what is told is far above both.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

WINDOW: Final = 64
# Losses before the first that can be told: early ones fall steeply.
LEAST: Final = 16
# Standard deviations, by the median deviation (1.4826 of it, where losses are normal), and a share of the median.
DEVIATIONS: Final = 8.0
LEAST_SHARE: Final = 0.2
_TO_STANDARD: Final = 1.4826


@dataclass(slots=True)
class Spikes:
    """Sees each step's loss, and tells of a spike where it begins: once, until a loss is as usual again."""

    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _in_one: bool = False

    def see(self, step: int, loss: float) -> str | None:
        """What is to be told of the loss of `step`."""
        told = None
        if len(self._losses) >= LEAST:
            middle = median(self._losses)
            deviation = _TO_STANDARD * median(abs(one - middle) for one in self._losses)
            spikes = loss > middle + max(DEVIATIONS * deviation, LEAST_SHARE * middle)
            if spikes and not self._in_one:
                usual = f"{middle:.4g} in the median of the {len(self._losses)} steps before"
                told = (
                    f"the loss jumped to {loss:.4g} at step {step}, from {usual}; if it doesn't come back, begin a new run with a lower "
                    "spec.training.optimizer.learningRate"
                )
            self._in_one = spikes
        if math.isfinite(loss):
            self._losses.append(loss)  # a jump that stays is the usual loss, once half of the window has it
        return told
