"""benchmarks/against.py"""

import math

import pytest
from benchmarks.against import interval, students_t


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (9, 2.262), (19, 2.093), (29, 2.045), (99, 1.984)])
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert students_t(freedom) == pytest.approx(quantile, abs=0.01)


def test_equal_sides_give_one_and_a_slower_tree_is_below_the_least() -> None:
    assert interval([1.0] * 10) == (1.0, 1.0, 1.0)
    ratio, low, high = interval([0.90, 0.92, 0.91, 0.93, 0.89, 0.90, 0.92, 0.91, 0.93, 0.89])
    assert low < ratio < high < 0.97


def test_noise_on_both_sides_widens_the_interval_and_moves_no_mean() -> None:
    ratio, low, high = interval([0.8, 1.25] * 5)
    assert ratio == pytest.approx(1.0)
    assert math.log(low) == pytest.approx(-math.log(high))
    assert low < 0.97
