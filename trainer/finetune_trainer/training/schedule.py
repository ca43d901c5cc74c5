"""The learning rate of each optimizer step: warm-up, then cosine, linear, constant or stable with a decay. A pure function of the step."""

import math

from finetune_api.finetunejob import Optimizer


def learning_rate(step: int, settings: Optimizer, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (0-based).

    Warm-up is linear and its first step is already above 0; what falls would reach its end at `total_steps`, so the last
    step still learns.

    >>> def rates(total, warmup=0, **settings):
    ...     made = Optimizer(**settings)
    ...     return [round(learning_rate(s, made, peak=1.0, warmup_steps=warmup, total_steps=total), 4) for s in range(total)]
    >>> rates(6, warmup=2, schedule="linear")
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> rates(4, schedule="cosine"), rates(4, schedule="cosine", minimum_learning_rate_ratio=0.1)
    ([1.0, 0.8536, 0.5, 0.1464], [1.0, 0.8682, 0.55, 0.2318])
    >>> rates(6, warmup=1, schedule="wsd", decay_ratio=0.5)
    [1.0, 1.0, 1.0, 1.0, 0.6667, 0.3333]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    lowest = settings.minimum_learning_rate_ratio
    return peak * (lowest + (1.0 - lowest) * _height(step, settings, warmup_steps, total_steps))


def _height(step: int, settings: Optimizer, warmup_steps: int, total_steps: int) -> float:
    """How far above its end the schedule is after warm-up: from 1 down to 0."""
    remaining = total_steps - warmup_steps
    match settings.schedule:
        case "constant":
            return 1.0
        case "wsd":
            decay_steps = min(math.ceil(settings.decay_ratio * total_steps), remaining)
            return min(1.0, (total_steps - step) / decay_steps) if decay_steps > 0 else 1.0
        case "linear":
            return 1.0 - _progress(step - warmup_steps, remaining)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * _progress(step - warmup_steps, remaining)))


def _progress(done: int, remaining: int) -> float:
    return min(1.0, done / remaining) if remaining > 0 else 1.0
