"""The learning rate of each optimizer step: warm-up, then cosine, linear or constant. A pure function of the step."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, *, peak: float, schedule: Schedule, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (0-based).

    Warm-up is linear and its first step is already above 0; cosine and linear would reach 0 at `total_steps`, so the last
    step still learns.

    >>> [learning_rate(s, peak=1.0, schedule="linear", warmup_steps=2, total_steps=6) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(learning_rate(s, peak=1.0, schedule="cosine", warmup_steps=0, total_steps=4), 4) for s in range(4)]
    [1.0, 0.8536, 0.5, 0.1464]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    remaining = total_steps - warmup_steps
    progress = min(1.0, (step - warmup_steps) / remaining) if remaining > 0 else 1.0
    match schedule:
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "linear":
            return peak * (1.0 - progress)
        case "constant":
            return peak
