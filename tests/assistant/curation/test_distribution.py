"""How numbers are spread, against the numbers themselves."""

import random
import statistics
from itertools import pairwise

from finetune_assistant.curation.distribution import Distribution


def test_against_the_numbers_themselves() -> None:
    drawn = random.Random(0)
    numbers = [int(drawn.lognormvariate(6, 1.5)) for _ in range(10_000)] + [10**9]
    spread = Distribution()
    for number in numbers:
        spread.add(number)
    numbers.sort()
    assert (spread.number, spread.total, spread.largest) == (len(numbers), sum(numbers), 10**9)
    assert spread.mean == statistics.fmean(numbers)
    for share in (0.01, 0.5, 0.95, 0.99):
        exact = numbers[int(share * len(numbers))]
        assert abs(spread.quantile(share) - exact) <= exact / 100 + 1
    assert len(spread.counts) < 2500


def test_bins_hold_everything_and_end_where_most_numbers_do() -> None:
    spread = Distribution()
    for number in [*range(1000), 10**6]:
        spread.add(number)
    bins = spread.bins(10)
    assert sum(count for _, _, count in bins) == 1001
    assert len(bins) <= 10
    assert bins[0][0] == 0
    assert bins[-1][1] < 1100
    assert all(upper == lower for (_, upper, _), (lower, _, _) in pairwise(bins))


def test_one_number_and_none() -> None:
    spread = Distribution()
    assert (spread.number, spread.total, spread.largest, spread.mean, spread.quantile(0.5), spread.bins()) == (0, 0, 0, 0.0, 0, [])
    spread.add(7)
    assert spread.bins() == [(7.0, 8.0, 1)]
