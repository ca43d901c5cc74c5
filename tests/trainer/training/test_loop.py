"""The loop on a rank that only writes down what it is asked: when it evaluates, commits and stops."""

from dataclasses import dataclass, field

import pytest

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

    def checkpoint(self, step: int, evaluation_loss: float | None) -> float:
        self.calls.append(f"checkpoint {step} {evaluation_loss}")
        return 1.0

    def agree(self, stop: bool, checkpoint: bool) -> tuple[bool, bool]:
        return stop, checkpoint

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.done >= self.stop_at


def milestones(**changes: object) -> Milestones:
    settings: dict[str, object] = {
        "total_steps": 4, "evaluation_steps": 2, "checkpoint_steps": None, "checkpoint_seconds": None, "checkpoint_each_evaluation": False
    }  # fmt: skip
    return Milestones(**(settings | changes))  # type: ignore[arg-type]


def test_a_whole_run_evaluates_before_the_first_step_and_commits_at_the_end() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=0) == 4
    assert rank.calls == ["evaluate 0", "train 0", "train 1", "evaluate 2", "train 2", "train 3", "evaluate 4", "checkpoint 4 1.5"]


def test_a_resumed_run_goes_on_without_a_second_evaluation() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=2) == 4
    assert rank.calls == ["train 2", "train 3", "evaluate 4", "checkpoint 4 1.5"]


def test_a_finished_run_does_nothing() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=4) == 4
    assert rank.calls == []


def test_a_stop_commits_what_is_done_and_ends() -> None:
    rank = Scribe(stop_at=1)
    assert run_steps(rank, milestones(), done=0) == 1
    assert rank.calls == ["evaluate 0", "train 0", "checkpoint 1 None"]


def test_checkpoints_every_so_many_steps() -> None:
    rank = Scribe()
    run_steps(rank, milestones(total_steps=5, evaluation_steps=None, checkpoint_steps=2), done=0)
    assert [call for call in rank.calls if call.startswith("checkpoint")] == ["checkpoint 2 None", "checkpoint 4 None", "checkpoint 5 None"]


def test_the_best_checkpoint_needs_one_at_each_evaluation() -> None:
    rank = Scribe()
    run_steps(rank, milestones(checkpoint_each_evaluation=True), done=0)
    assert [call for call in rank.calls if call.startswith("checkpoint")] == ["checkpoint 2 1.5", "checkpoint 4 1.5"]


def test_the_last_evaluation_comes_at_the_end_even_between_epochs() -> None:
    rank = Scribe()
    run_steps(rank, milestones(total_steps=3), done=0)
    assert [call for call in rank.calls if call.startswith("evaluate")] == ["evaluate 0", "evaluate 2", "evaluate 3"]


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
