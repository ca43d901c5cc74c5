"""Intervals and agreement against numbers from elsewhere."""

import pytest
import scipy.stats

from finetune_assistant.judging.statistics import Share, agreement, mean_with_bootstrap, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 30), (7, 30), (110, 115), (500, 1000)])
def test_wilson_as_scipy_has_it(successes: int, trials: int) -> None:
    share = wilson(successes, trials)
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert (share.low, share.high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))


def test_nothing_counted_is_unknown() -> None:
    assert wilson(0, 0) == mean_with_bootstrap([], seed=0) == Share(value=None)
    assert agreement([]).raw is None


def test_the_bootstrap_is_the_same_for_the_same_seed_and_about_as_wide_as_the_normal_interval() -> None:
    values = [(number * 7919 % 13) / 3 for number in range(200)]
    share = mean_with_bootstrap(values, seed=3)
    assert share == mean_with_bootstrap(values, seed=3)
    assert share.low is not None
    assert share.high is not None
    error = scipy.stats.sem(values)
    assert share.high - share.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_kappa_of_a_known_table() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5."""
    labels = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    found = agreement(labels)
    assert (found.raw, found.kappa) == (pytest.approx(0.7), pytest.approx(0.4))


def test_kappa_is_unknown_where_both_always_say_the_same() -> None:
    found = agreement([("a", "a")] * 5)
    assert (found.raw, found.kappa) == (1.0, None)
