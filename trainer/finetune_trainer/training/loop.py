"""The loop: step after step, with evaluations, checkpoints and a way to stop. It knows no engine, storage or Ray.

In: the plan of batches and five things that a rank can do. Out: the number of steps that are done. Every rank runs the
same loop; what only one rank can know (the clock, a request to stop) is agreed upon once a step.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finetune_api.finetunejob import EarlyStopping
from finetune_trainer.training.early_stopping import Evaluated, unbeaten

# A failure of some node every day, and no wait shorter than this between two checkpoints that nobody asked for.
MEAN_TIME_BETWEEN_FAILURES_SECONDS = 86_400.0
FIRST_INTERVAL_SECONDS = 300.0
SHORTEST_INTERVAL_SECONDS = 60.0


class Rank(Protocol):
    """What the loop asks of the rank that it runs on. All but `agree` and `now` are collective."""

    def train(self, step: int) -> None:
        """Do optimizer step `step`, counted from 0. Raises TrainingFailed when a number is no longer finite."""

    def evaluate(self, step: int) -> float:
        """Loss per supervised token of the held-out dialogues after `step` steps: the same number on every rank."""

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> float:
        """Commit the state after `step` steps, with all evaluations so far; seconds that it took."""

    def agree(self, stop: bool, checkpoint: bool) -> tuple[bool, bool]:
        """Whether any rank wants to stop, and rank 0's answer to the other question, on every rank."""

    def stop_requested(self) -> bool:
        """Whether somebody asked this rank to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """When the loop does more than a step; all in optimizer steps.

    `evaluation_steps` is None when nothing is held out, `early_stopping` when only the last step ends the run.
    `checkpoint_each_evaluation` is what `publish.checkpoint: best` needs.
    """

    total_steps: int
    evaluation_steps: int | None
    early_stopping: EarlyStopping | None
    checkpoint_steps: int | None
    checkpoint_seconds: float | None
    checkpoint_each_evaluation: bool

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step` steps: before the first, each so many steps, and at the end."""
        if self.evaluation_steps is None:
            return False
        return step % self.evaluation_steps == 0 or step == self.total_steps


def automatic_interval(cost_seconds: float, *, mean_time_between_failures_seconds: float = MEAN_TIME_BETWEEN_FAILURES_SECONDS) -> float:
    """Seconds between checkpoints that lose the least time in all: Young's square root of 2 x cost x mean time between failures.

    >>> round(automatic_interval(10.0))
    1315
    """
    return max(math.sqrt(2.0 * cost_seconds * mean_time_between_failures_seconds), SHORTEST_INTERVAL_SECONDS)


@dataclass(slots=True)
class CheckpointClock:
    """Says when the next checkpoint is due; lives on every rank, and rank 0's counts."""

    milestones: Milestones
    now: Callable[[], float] = time.monotonic
    interval_seconds: float = field(init=False)
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.interval_seconds = self.milestones.checkpoint_seconds or FIRST_INTERVAL_SECONDS
        self.last = self.now()

    def due(self, step: int) -> bool:
        """Whether `step` steps done is the moment for one."""
        if self.milestones.checkpoint_steps is not None:
            return step % self.milestones.checkpoint_steps == 0
        return self.now() - self.last >= self.interval_seconds

    def committed(self, cost_seconds: float) -> None:
        """A checkpoint was committed and took so long."""
        self.last = self.now()
        if self.milestones.checkpoint_seconds is None:
            self.interval_seconds = automatic_interval(cost_seconds)


def run_steps(rank: Rank, milestones: Milestones, *, done: int, evaluations: Sequence[Evaluated] = ()) -> int:
    """Go on after `done` steps, whose `evaluations` are known, until all are done, none helps any more, or a stop was agreed on.

    However it ends, the last state is committed. Returns the steps that are done. An error of the rank ends it, and nothing after the
    last checkpoint is kept.
    """
    clock, known = CheckpointClock(milestones), list(evaluations)
    if done == 0 and milestones.evaluates(0):
        known.append(Evaluated(0, rank.evaluate(0)))
    ends = done >= milestones.total_steps or unbeaten(known, milestones.early_stopping) is not None
    while not ends:
        rank.train(done)
        done += 1
        ends, evaluated = done >= milestones.total_steps, milestones.evaluates(done)
        if evaluated:
            known.append(Evaluated(done, rank.evaluate(done)))
            ends = ends or unbeaten(known, milestones.early_stopping) is not None
        best_needs_it = milestones.checkpoint_each_evaluation and evaluated
        stop, due = rank.agree(rank.stop_requested(), clock.due(done))
        ends = ends or stop
        if ends or due or best_needs_it:
            clock.committed(rank.checkpoint(done, known))
    return done
