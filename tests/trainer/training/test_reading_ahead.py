"""finetune_trainer/training/reading_ahead.py"""

import threading

import pytest

from finetune_trainer.model.micro_batch import MicroBatch, joined
from finetune_trainer.training.reading_ahead import ReadingAhead


def test_a_step_is_made_while_the_one_before_it_is_computed_and_no_more_than_that() -> None:
    made: list[int] = []
    second_is_made = threading.Event()

    def make(step: int) -> list[MicroBatch]:
        made.append(step)
        if step == 5:
            second_is_made.set()
        return [joined([[step, step + 1]])]

    ahead = ReadingAhead(make, 7)
    assert ahead.of_step(4)[0].input_ids.tolist() == [4, 5]
    assert second_is_made.wait(10)
    assert made == [4, 5]
    assert [ahead.of_step(step)[0].input_ids.tolist()[0] for step in (5, 6)] == [5, 6]
    assert made == [4, 5, 6], "each once, and nothing beyond the last"


def test_an_error_comes_with_the_step_that_it_belongs_to() -> None:
    def make(step: int) -> list[MicroBatch]:
        if step == 1:
            raise OSError("the disk is gone")
        return []

    ahead = ReadingAhead(make, 3)
    assert ahead.of_step(0) == []
    with pytest.raises(OSError, match="gone"):
        ahead.of_step(1)
