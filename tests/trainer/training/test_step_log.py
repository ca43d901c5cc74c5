"""training/step_log.py: sums between two events."""

from finetune_trainer.training.step_log import Since, StepLog


class Clock:
    """Seconds that pass when they are told to."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_wall_time_holds_what_lies_between_steps() -> None:
    clock = Clock()
    log = StepLog(now=clock)
    for pause in (3.0, 0.0):  # an evaluation, nothing
        clock.at += pause + 1.0
        log.add(seconds=1.0, tokens=100, supervised_tokens=40)
    expected = Since(steps=2, seconds=2.0, tokens=200, supervised_tokens=80, wall_seconds=5.0, wall_tokens_per_second=40.0)
    assert log.take() == expected
    clock.at += 5.0
    log.add(seconds=4.0, tokens=50, supervised_tokens=1)
    after = log.take()
    assert (after.steps, after.seconds, after.tokens, after.wall_seconds, after.wall_tokens_per_second) == (1, 4.0, 50, 5.0, 25.0)
