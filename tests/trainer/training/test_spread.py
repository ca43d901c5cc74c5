"""training/spread.py: a rank that stays slow is told once, with the factor, and told again when it is well."""

from collections.abc import Sequence

import pytest

from finetune_trainer.training.spread import LEAST_SECONDS, LEAST_TIMES, SlowRank, spread


def told(series: Sequence[Sequence[float | None]], seconds: float = LEAST_SECONDS) -> list[tuple[int, str]]:
    """What is said, by the number of the interval, from 1."""
    watch = SlowRank([f"rank {rank}" for rank in range(4)])
    return [(at, words) for at, found in enumerate(series, start=1) if (words := watch.see(spread(found), seconds)) is not None]


WELL, SLOW, BETTER = [1.0, 1.1, 1.0, 1.05], [1.0, 1.1, 1.0, 1.6], [1.0, 1.1, 1.0, 1.2]


def test_the_slowest_is_compared_with_the_median() -> None:
    found = [spread([1.0, 4.0, 1.0, 2.0]), spread([1.0, None, 2.0])]
    assert [(one.times, one.rank) for one in found if one is not None] == [(4.0, 1), (2.0, 2)]
    assert spread([None, None]) is None
    assert spread([0.5]) is None


def test_a_rank_that_stays_slow_is_told_once() -> None:
    words = "rank 3 takes 1.60 times as long as the median for the same work, and all others wait for it"
    assert told([WELL] * 3 + [SLOW] * 50) == [(3 + LEAST_TIMES, words)]


def test_short_intervals_must_add_up() -> None:
    (found,) = told([SLOW] * 200, seconds=1.0)
    assert found[0] == LEAST_SECONDS


def test_what_passes_is_not_told() -> None:
    assert told(([SLOW] * (LEAST_TIMES - 1) + [WELL]) * 10) == []
    assert told([[1.0, 1.6, 1.0], [1.6, 1.0, 1.0]] * 20) == [], "now one, now another"


def test_between_slow_and_well_nothing_is_new_and_after_it_is_well_it_may_be_slow_again() -> None:
    series = [SLOW] * LEAST_TIMES + [BETTER] * 5 + [WELL] + [SLOW] * LEAST_TIMES
    assert [(at, words.split(" for ")[0]) for at, words in told(series)] == [
        (LEAST_TIMES, "rank 3 takes 1.60 times as long as the median"),
        (LEAST_TIMES + 6, "rank 3 is no longer slower than the others"),
        (2 * LEAST_TIMES + 6, "rank 3 takes 1.60 times as long as the median"),
    ]


def test_one_that_is_slower_still_makes_nobody_well() -> None:
    both = [1.0, 2.0, 1.0, 1.6]
    assert [at for at, _ in told([SLOW] * LEAST_TIMES + [both] * 9 + [WELL])] == [LEAST_TIMES, LEAST_TIMES + 10]


@pytest.mark.parametrize("nothing", [[None] * 4, [1.0, None, None, None]])
def test_an_interval_without_numbers_changes_nothing(nothing: list[float | None]) -> None:
    assert len(told([SLOW, nothing] * LEAST_TIMES)) == 1
