"""finetune_trainer/training/schedule.py"""

import math
from typing import Any

import pytest

from finetune_api.finetunejob import Optimizer
from finetune_trainer.training.schedule import learning_rate

SCHEDULES = ["cosine", "linear", "constant", "wsd"]


def rates(schedule: str, warmup: int = 3, total: int = 103, **settings: Any) -> list[float]:
    made = Optimizer.model_validate({"schedule": schedule, **settings})
    return [learning_rate(step, made, peak=2e-5, warmup_steps=warmup, total_steps=total) for step in range(total)]


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


def test_wsd_stays_and_then_falls_by_equal_steps() -> None:
    values = rates("wsd", total=100, decayRatio=0.2)
    assert set(values[2:81]) == {2e-5}
    assert values[90] == pytest.approx(1e-5)
    assert values[-1] == pytest.approx(1e-6)


def test_wsd_without_steps_to_fall_in_stays() -> None:
    assert rates("wsd", decayRatio=0.0)[-1] == 2e-5


def test_wsd_falls_from_the_end_of_warm_up_where_both_shares_are_more_than_all() -> None:
    values = rates("wsd", warmup=8, total=10, decayRatio=0.5)
    assert values[7:] == pytest.approx([2e-5, 2e-5, 1e-5])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_minimum_is_where_the_schedule_ends(schedule: str) -> None:
    values = rates(schedule, minimumLearningRateRatio=0.1)
    assert max(values) == 2e-5
    assert 2e-6 < values[-1] < 2.4e-6 if schedule != "wsd" else values[-1] == pytest.approx(2e-6 + 1.8e-5 / 11)
    assert values[0] == pytest.approx(2e-5 / 3), "warm-up begins where it does without one"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_learns(schedule: str) -> None:
    assert min(rates(schedule)) > 0.0
    assert min(rates(schedule, warmup=5, total=5)) > 0.0
    assert rates(schedule, warmup=0, total=1) == [2e-5]
