"""The loop on a rank that only writes down what it is asked: when it evaluates, commits and stops."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from finetune_api.finetunejob import EarlyStopping
from finetune_trainer.training.early_stopping import Evaluated
from finetune_trainer.training.loop import CheckpointClock, Milestones, automatic_interval, run_steps


@dataclass
class Scribe:
    """A rank that notes each call; a stop is asked for once `stop_at` steps are done."""

    stop_at: int | None = None
    calls: list[str] = field(default_factory=list)
    done: int = 0

    def train(self, step: int) -> None:
        self.calls.append(f"train {step}")
        self.done = step + 1

    def evaluate(self, step: int) -> float:
        self.calls.append(f"evaluate {step}")
        return 1.5

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> float:
        self.calls.append(f"checkpoint {step} after evaluations {[one.step for one in evaluations]}")
        return 1.0

    def agree(self, stop: bool, checkpoint: bool) -> tuple[bool, bool]:
        return stop, checkpoint

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.done >= self.stop_at


def checkpoints(rank: Scribe) -> list[int]:
    """The steps that were committed."""
    return [int(call.split()[1]) for call in rank.calls if call.startswith("checkpoint")]


def milestones(**changes: object) -> Milestones:
    settings: dict[str, object] = {
        "total_steps": 4, "evaluation_steps": 2, "early_stopping": None, "checkpoint_steps": None, "checkpoint_seconds": None,
        "checkpoint_each_evaluation": False,
    }  # fmt: skip
    return Milestones(**(settings | changes))  # type: ignore[arg-type]


def test_a_whole_run_evaluates_before_the_first_step_and_commits_at_the_end() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=0) == 4
    assert rank.calls == [
        *("evaluate 0", "train 0", "train 1", "evaluate 2", "train 2", "train 3", "evaluate 4"),
        "checkpoint 4 after evaluations [0, 2, 4]",
    ]


def test_a_resumed_run_goes_on_without_a_second_evaluation() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=2, evaluations=[Evaluated(0, 2.0), Evaluated(2, 1.5)]) == 4
    assert rank.calls == ["train 2", "train 3", "evaluate 4", "checkpoint 4 after evaluations [0, 2, 4]"]


def test_a_finished_run_does_nothing() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=4) == 4
    assert rank.calls == []


def test_a_stop_commits_what_is_done_and_ends() -> None:
    rank = Scribe(stop_at=1)
    assert run_steps(rank, milestones(), done=0) == 1
    assert rank.calls == ["evaluate 0", "train 0", "checkpoint 1 after evaluations [0]"]


def test_checkpoints_every_so_many_steps() -> None:
    rank = Scribe()
    run_steps(rank, milestones(total_steps=5, evaluation_steps=None, checkpoint_steps=2), done=0)
    assert checkpoints(rank) == [2, 4, 5]


def test_the_best_checkpoint_needs_one_at_each_evaluation() -> None:
    rank = Scribe()
    run_steps(rank, milestones(checkpoint_each_evaluation=True), done=0)
    assert checkpoints(rank) == [2, 4]


def test_the_last_evaluation_comes_at_the_end_even_between_epochs() -> None:
    rank = Scribe()
    run_steps(rank, milestones(total_steps=3), done=0)
    assert [call for call in rank.calls if call.startswith("evaluate")] == ["evaluate 0", "evaluate 2", "evaluate 3"]


def test_the_evaluation_that_is_one_too_many_ends_the_run_with_a_checkpoint() -> None:
    rank = Scribe()  # every loss is 1.5
    stops = milestones(total_steps=100, evaluation_steps=3, early_stopping=EarlyStopping(patience=2))
    assert run_steps(rank, stops, done=0) == 6
    assert rank.calls[-2:] == ["evaluate 6", "checkpoint 6 after evaluations [0, 3, 6]"]
    assert checkpoints(rank) == [6]


def test_a_run_that_was_stopped_early_does_nothing_when_it_is_asked_to_go_on() -> None:
    rank = Scribe()
    stops = milestones(total_steps=100, evaluation_steps=3, early_stopping=EarlyStopping(patience=1))
    assert run_steps(rank, stops, done=3, evaluations=[Evaluated(0, 1.0), Evaluated(3, 1.0)]) == 3
    assert rank.calls == []


def test_evaluations_less_often_than_there_are_steps_still_come_at_the_end() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(total_steps=3, evaluation_steps=500), done=0) == 3
    assert rank.calls[-1] == "checkpoint 3 after evaluations [0, 3]"


def test_seconds_are_counted_from_the_last_checkpoint() -> None:
    time = [0.0]
    clock = CheckpointClock(milestones(checkpoint_seconds=10.0), now=lambda: time[0])
    time[0] = 9.0
    assert not clock.due(1)
    time[0] = 11.0
    assert clock.due(2)
    clock.committed(5.0)
    assert not clock.due(3)
    assert clock.interval_seconds == 10.0


def test_the_automatic_interval_follows_the_cost() -> None:
    clock = CheckpointClock(milestones(), now=lambda: 0.0)
    clock.committed(20.0)
    assert clock.interval_seconds == automatic_interval(20.0) == pytest.approx((2 * 20 * 86_400) ** 0.5)
    assert automatic_interval(0.0) == 60.0
