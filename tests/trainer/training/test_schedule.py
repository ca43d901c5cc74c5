"""finetune_trainer/training/schedule.py"""

import math

import pytest

from finetune_trainer.training.schedule import Schedule, learning_rate


def rates(schedule: Schedule, warmup: int = 3, total: int = 103) -> list[float]:
    return [learning_rate(step, peak=2e-5, schedule=schedule, warmup_steps=warmup, total_steps=total) for step in range(total)]


def test_cosine_is_a_cosine_and_not_a_constant_after_warm_up() -> None:
    values = rates("cosine")
    assert values[3] == 2e-5
    assert values[53] == pytest.approx(1e-5)
    assert values[28] == pytest.approx(1e-5 * (1 + math.cos(math.pi / 4)))
    assert values[-1] < 1e-8
    assert values[3:] == sorted(values[3:], reverse=True)


def test_warm_up_is_linear() -> None:
    assert rates("cosine")[:4] == pytest.approx([2e-5 / 3, 4e-5 / 3, 2e-5, 2e-5])


def test_linear_falls_by_equal_steps() -> None:
    values = rates("linear")
    assert values[53] == pytest.approx(1e-5)
    assert values[-1] == pytest.approx(2e-7)


def test_constant_stays() -> None:
    assert set(rates("constant")[2:]) == {2e-5}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_every_step_learns(schedule: Schedule) -> None:
    assert min(rates(schedule)) > 0.0
    assert min(rates(schedule, warmup=5, total=5)) > 0.0
    assert learning_rate(0, peak=1.0, schedule=schedule, warmup_steps=0, total_steps=1) == 1.0
