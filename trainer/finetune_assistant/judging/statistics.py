"""Rates with their uncertainty, and agreement beyond chance. Pure numbers.

In: counts, outcomes, differences. Out: shares with 95 % intervals. Who judged what is unknown here.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from finetune_assistant.evaluation.compare import interval

_Z = 1.959964  # 95 % of a normal distribution, both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`value` is None where nothing was counted."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two raters on the same items. `kappa` is None where chance alone would make them agree, as when both always say the same."""

    items: int
    raw: float | None
    kappa: float | None


def wilson(successes: int, trials: int) -> Share:
    """The share with Wilson's 95 % interval, which holds for few trials and near 0 and 1. Wilson 1927, doi:10.2307/2276774.

    >>> share = wilson(110, 115)
    >>> f"{share.value:.3f} {share.low:.3f} {share.high:.3f}"
    '0.957 0.902 0.981'
    """
    if not trials:
        return Share(value=None)
    p, z2 = successes / trials, _Z**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    # At both ends the interval ends there exactly; floats miss it by a little.
    return Share(value=p, low=centre - half if successes else 0.0, high=centre + half if successes < trials else 1.0)


def mean_with_bootstrap(values: Sequence[float], *, seed: int) -> Share:
    """The mean of one value a prompt, with the 95 % interval of the bootstrap over prompts: what both models share in a prompt cancels.

    >>> mean_with_bootstrap([1.0, 1.0, 1.0], seed=1)
    Share(value=1.0, low=1.0, high=1.0)
    """
    if not values:
        return Share(value=None)
    low, high = interval(values, seed=seed)
    return Share(value=sum(values) / len(values), low=low, high=high)


def agreement(labels: Sequence[tuple[Hashable, Hashable]]) -> Agreement:
    """How often two raters gave an item the same label, and Cohen's kappa (1960, doi:10.1177/001316446002000104).

    >>> agreement([("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")])
    Agreement(items=4, raw=0.75, kappa=0.5)
    """
    items = len(labels)
    if not items:
        return Agreement(items=0, raw=None, kappa=None)
    raw = sum(one == other for one, other in labels) / items
    ones, others = Counter(one for one, _ in labels), Counter(other for _, other in labels)
    chance = sum(ones[label] * others[label] for label in ones) / items**2
    return Agreement(items=items, raw=raw, kappa=None if math.isclose(chance, 1.0) else (raw - chance) / (1 - chance))
