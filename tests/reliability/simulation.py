"""Goodput under failures that come by chance: a small simulation, pure, of what this project measures and what others published.

Goodput is the share of time that ends in steps that are kept. In: how often something fails, and what checkpoints, failures and returns
cost. Out: the share, over many lives of a training. A failure loses what was done since the moment of the newest checkpoint that was
committed by then; it may also come while training is on its way back, or while a checkpoint is being written.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finetune_trainer.training.loop import automatic_interval

HOUR: Final = 3600.0
# Llama 3 (The Llama 3 Herd of Models, section 3.3.4): 419 unexpected interruptions in 54 days on 16,384 GPUs.
LLAMA_3_HOURS: Final = 54 * 24 / 419
LLAMA_3_GPUS: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds. `blocked`: for which training waits for a checkpoint; `upload`: from its moment to its commit.

    `detection`: from a failure until it is acted on; `restart`: from there to ranks that are ready; `restore`: until they have their state.
    """

    blocked: float
    upload: float
    detection: float
    restart: float
    restore: float

    @property
    def back(self) -> float:
        """From a failure to the first step after it."""
        return self.detection + self.restart + self.restore


def mean_hours_between_failures(gpus: int) -> float:
    """By Llama 3's rate, which grows with the number of GPUs.

    >>> round(mean_hours_between_failures(1000))
    51
    """
    return LLAMA_3_HOURS * LLAMA_3_GPUS / gpus


def goodput(costs: Costs, mean_hours: float, *, days: float = 54, lives: int = 20, seed: int = 0) -> float:
    """The mean over so many lives, at the interval that the trainer takes by itself."""
    chance = random.Random(seed)
    interval = automatic_interval(costs.blocked, costs.upload, mean_hours * HOUR)
    return sum(_life(costs, interval, days * 24 * HOUR, lambda: chance.expovariate(1 / (mean_hours * HOUR))) for _ in range(lives)) / lives


def _life(costs: Costs, interval: float, length: float, until_failure: Callable[[], float]) -> float:
    """The share of `length` seconds that was kept.

    >>> costs = Costs(blocked=1, upload=10, detection=5, restart=10, restore=5)
    >>> _life(costs, 99, 1000, lambda: 2000)  # nothing fails: ten times 99 s, each with one for a checkpoint
    0.99
    >>> failures = iter([450, 2000])  # 50 s after the fourth checkpoint; 20 s to come back
    >>> _life(costs, 99, 1000, lambda: next(failures))
    0.921
    """
    kept = now = 0.0
    while now < length:
        fails = now + until_failure()
        # Back in training, unless the next failure is sooner.
        now = min(now + (costs.back if now else 0.0), fails)
        trained = max(0.0, min(fails, length) - now)
        if fails >= length:
            kept += _trained(trained, interval, costs)
        else:
            kept += _committed(trained, interval, costs)
        now = fails
    return round(kept / length, 6)


def _trained(seconds: float, interval: float, costs: Costs) -> float:
    """Of so many seconds without a failure: all but those for checkpoints."""
    parts, rest = divmod(seconds, interval + costs.blocked)
    return parts * interval + min(rest, interval)


def _committed(seconds: float, interval: float, costs: Costs) -> float:
    """Of so many seconds that a failure ends: up to the moment of the newest checkpoint that was committed by then."""
    if seconds < interval + costs.upload:
        return 0.0
    return ((seconds - interval - costs.upload) // (interval + costs.blocked) + 1) * interval


def slowest_return(costs: Costs, mean_hours: float, wanted: float) -> float:
    """The longest way back from a failure with which goodput is still as wanted, in seconds, to 10 s."""
    back = 0.0
    while goodput(Costs(blocked=costs.blocked, upload=costs.upload, detection=back + 10, restart=0, restore=0), mean_hours) >= wanted:
        back += 10
    return back


# What was measured here, for a model of 70 B parameters on 1,000 GPUs, each of which holds 0.84 GB of masters and moments.
STATE_BYTES: Final = 12 * 70e9 / 1000
COPY_BYTES_PER_SECOND: Final = 4.5e9  # NumPy, one thread, buffers that were used before: two cores, 1 December 2026
STORE_BYTES_PER_SECOND: Final = 48e6  # a worker to SeaweedFS, both on two cores: docs/stores.md
DETECTION_SECONDS: Final = 60.0  # decision 8: a minute without a step, when a pod is gone
RESTART_SECONDS: Final = 80.0  # a new RayJob on the test cluster of two cores, nearly all of it Ray's start: docs/log.md

MEASURED: Final = Costs(
    blocked=STATE_BYTES / COPY_BYTES_PER_SECOND,
    upload=STATE_BYTES / STORE_BYTES_PER_SECOND,
    detection=DETECTION_SECONDS,
    restart=RESTART_SECONDS,
    restore=STATE_BYTES / STORE_BYTES_PER_SECOND,
)
# The mean time between failures, in hours, and the goodput that is wanted there.
WANTED: Final = ((round(mean_hours_between_failures(1000)), 0.99), (4, 0.97))
