"""The loop on a rank that only writes down what it is asked: when it evaluates, commits and stops."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from finetune_api.errors import StorageFailed
from finetune_api.finetunejob import EarlyStopping
from finetune_trainer.training.early_stopping import Evaluated
from finetune_trainer.training.loop import (
    FIRST_RETRY_SECONDS,
    MOST_FAILURES,
    Agreement,
    CheckpointClock,
    Milestones,
    automatic_interval,
    run_steps,
    seconds_between_failures,
)
from finetune_trainer.training.saving import Saved


@dataclass
class Scribe:
    """A rank that notes each call; a stop is asked for once `stop_at` steps are done."""

    stop_at: int | None = None
    outcomes: list[Saved | None] = field(default_factory=list)
    """Of checkpoints, step by step."""
    calls: list[str] = field(default_factory=list)
    done: int = 0

    def train(self, step: int) -> None:
        self.calls.append(f"train {step}")
        self.done = step + 1

    def evaluate(self, step: int) -> float:
        self.calls.append(f"evaluate {step}")
        return 1.5

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> Saved | None:
        self.calls.append(f"checkpoint {step} after evaluations {[one.step for one in evaluations]}")
        return None

    def last_checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> None:
        self.calls.append(f"last checkpoint {step} after evaluations {[one.step for one in evaluations]}")

    def agree(self, stop: bool, checkpoint: bool) -> Agreement:
        saved = self.outcomes.pop(0) if self.outcomes else None
        return Agreement(stop=stop, checkpoint=checkpoint, saved=saved)

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.done >= self.stop_at


def checkpoints(rank: Scribe) -> list[int]:
    """The steps that were committed."""
    return [int(call.split(" after ")[0].split()[-1]) for call in rank.calls if "checkpoint" in call]


def saved(*, blocked: float = 0.5, written: float = 5.0, problem: str = "") -> Saved:
    return Saved(step=1, manifest=None, problem=problem, blocked_seconds=blocked, write_seconds=written)


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
        "last checkpoint 4 after evaluations [0, 2, 4]",
    ]


def test_a_resumed_run_goes_on_without_a_second_evaluation() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=2, evaluations=[Evaluated(0, 2.0), Evaluated(2, 1.5)]) == 4
    assert rank.calls == ["train 2", "train 3", "evaluate 4", "last checkpoint 4 after evaluations [0, 2, 4]"]


def test_a_finished_run_does_nothing() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(), done=4) == 4
    assert rank.calls == []


def test_a_stop_commits_what_is_done_and_ends() -> None:
    rank = Scribe(stop_at=1)
    assert run_steps(rank, milestones(), done=0) == 1
    assert rank.calls == ["evaluate 0", "train 0", "last checkpoint 1 after evaluations [0]"]


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
    assert rank.calls[-2:] == ["evaluate 6", "last checkpoint 6 after evaluations [0, 3, 6]"]
    assert checkpoints(rank) == [6]


def test_a_run_that_was_stopped_early_does_nothing_when_it_is_asked_to_go_on() -> None:
    rank = Scribe()
    stops = milestones(total_steps=100, evaluation_steps=3, early_stopping=EarlyStopping(patience=1))
    assert run_steps(rank, stops, done=3, evaluations=[Evaluated(0, 1.0), Evaluated(3, 1.0)]) == 3
    assert rank.calls == []


def test_evaluations_less_often_than_there_are_steps_still_come_at_the_end() -> None:
    rank = Scribe()
    assert run_steps(rank, milestones(total_steps=3, evaluation_steps=500), done=0) == 3
    assert rank.calls[-1] == "last checkpoint 3 after evaluations [0, 3]"


def test_seconds_are_counted_from_the_moment_of_the_last_checkpoint() -> None:
    time = [0.0]
    clock = CheckpointClock(milestones(checkpoint_seconds=10.0), now=lambda: time[0])
    time[0] = 9.0
    assert not clock.due(1)
    time[0] = 11.0
    assert clock.due(2)
    clock.began()
    time[0] = 22.0
    assert not clock.due(3), "the one before is still under way"
    clock.hears(saved(written=11.0))
    assert clock.due(4)
    assert clock.interval_seconds == 10.0


def test_the_automatic_interval_follows_the_cost_and_is_no_shorter_than_an_upload() -> None:
    clock = CheckpointClock(milestones(), now=lambda: 0.0)
    clock.hears(saved(blocked=20.0, written=30.0))
    assert clock.interval_seconds == automatic_interval(20.0, 30.0, 86_400.0) == pytest.approx((2 * 20 * 86_400) ** 0.5)
    clock.hears(saved(blocked=0.5, written=900.0))
    assert clock.interval_seconds == 900.0
    assert automatic_interval(0.0, 0.0, 86_400.0) == 60.0


def test_a_run_that_is_ended_often_saves_more_often() -> None:
    """Twelve attempts in twelve hours; a first one that has gone on for a month tells nothing of failures."""
    hour = 3600.0
    often = CheckpointClock(milestones(between_failures_seconds=seconds_between_failures(13, 12 * hour)), now=lambda: 0.0)
    often.hears(saved(blocked=20.0, written=30.0))
    assert often.interval_seconds == pytest.approx((2 * 20 * (24 + 12) / 13 * hour) ** 0.5)
    assert seconds_between_failures(1, 720 * hour) == seconds_between_failures(2, 720 * hour) == 24 * hour


@pytest.mark.parametrize("every", [{}, {"checkpoint_seconds": 1000.0}, {"checkpoint_steps": 1000}])
def test_a_checkpoint_that_failed_is_tried_again_after_longer_and_longer(every: dict[str, float]) -> None:
    time = [0.0]
    clock = CheckpointClock(milestones(**every), now=lambda: time[0])
    for failure in range(MOST_FAILURES - 1):
        clock.began()
        clock.hears(saved(problem="storage is full"))
        time[0] += FIRST_RETRY_SECONDS * 2.0**failure - 1
        assert not clock.due(1)
        time[0] += 1
        assert clock.due(1)
    clock.began()
    clock.hears(saved())
    assert not clock.due(1)
    assert clock.failures == 0


def test_after_a_failure_short_steps_bring_no_try_sooner() -> None:
    """Six tries within a minute would end a run for an outage of a minute."""
    time = [0.0]
    clock = CheckpointClock(milestones(checkpoint_steps=5), now=lambda: time[0])
    assert clock.due(5)
    clock.began()
    clock.hears(saved(problem="no answer"))
    time[0] = FIRST_RETRY_SECONDS - 1
    assert not clock.due(10)
    time[0] = FIRST_RETRY_SECONDS
    assert clock.due(11)
    clock.began()
    assert not clock.due(15), "one is under way"
    clock.hears(saved())
    assert not clock.due(16)
    assert clock.due(20)


def test_failures_without_end_end_the_run() -> None:
    time = [0.0]
    clock = CheckpointClock(milestones(), now=lambda: time[0])
    for _ in range(MOST_FAILURES - 1):
        clock.began()
        clock.hears(saved(problem="storage is full"))
        time[0] = clock.last + clock.interval_seconds
        assert clock.due(1)
    clock.began()
    with pytest.raises(StorageFailed, match=f"{MOST_FAILURES} checkpoints in a row failed; the last: storage is full"):
        clock.hears(saved(problem="storage is full"))


def test_evaluations_in_an_outage_end_no_run() -> None:
    """Each asks for a checkpoint, for the best one; how long storage may be away is told by the tries that time brings."""
    rank = Scribe(outcomes=[saved(problem="no answer")] * 3 * MOST_FAILURES)
    steps = 3 * MOST_FAILURES + 1
    assert run_steps(rank, milestones(total_steps=steps, evaluation_steps=1, checkpoint_each_evaluation=True), done=0) == steps
    assert checkpoints(rank) == list(range(1, steps + 1)), "each is tried"


def test_a_try_more_puts_off_none_that_is_due() -> None:
    time = [0.0]
    clock = CheckpointClock(milestones(checkpoint_steps=5), now=lambda: time[0])
    clock.began()
    clock.hears(saved(problem="no answer"))
    time[0] = FIRST_RETRY_SECONDS - 1
    clock.began(due=False)
    clock.hears(saved(problem="no answer"))
    assert clock.failures == 1
    time[0] = FIRST_RETRY_SECONDS
    assert clock.due(7)
