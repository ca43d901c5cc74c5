"""launch/patience.py: the watchdog's arithmetic, at the hand of a clock."""

import pytest

from finetune_trainer.launch.patience import Patience, Sign


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_each_sign_begins_the_wait_anew() -> None:
    clock = Clock()
    patience = Patience(now=clock)
    for count in range(1, 6):
        clock.seconds += 599
        assert patience.exhausted() is None
        patience.see(Sign(count=count, what="loading the model"))
    clock.seconds += 599
    patience.see(Sign(count=5, what="loading the model"))  # nothing new
    clock.seconds += 1
    assert patience.exhausted() == "no step and no progress of any other kind for 600 s; the last was loading the model"


@pytest.mark.parametrize(("step_seconds", "allowed"), [(1.0, 600.0), (60.0, 600.0), (100.0, 1000.0), (3000.0, 30_000.0)])
def test_slow_steps_have_ten_times_their_median(step_seconds: float, allowed: float) -> None:
    clock = Clock()
    patience = Patience(now=clock)
    for step in range(1, 8):
        clock.seconds += step_seconds if step != 4 else 20 * step_seconds  # one with a checkpoint in it
        patience.see(Sign(count=step, steps=step))
    assert patience.seconds == allowed
    clock.seconds += allowed - 1
    assert patience.exhausted() is None
    clock.seconds += 1
    assert patience.exhausted() is not None


def test_steps_that_were_missed_between_two_looks_count_each() -> None:
    clock = Clock()
    patience = Patience(now=clock)
    patience.see(Sign(count=1, steps=1))
    clock.seconds += 800
    patience.see(Sign(count=5, steps=5))
    assert patience.seconds == 2000


def test_a_first_step_on_a_cpu_may_take_longer() -> None:
    clock = Clock()
    patience = Patience(now=clock, first_step_seconds=3600)
    clock.seconds = 3599
    assert patience.exhausted() is None
    patience.see(Sign(count=1, steps=1))
    clock.seconds += 10
    patience.see(Sign(count=2, steps=2))
    assert patience.seconds == 600
