"""The loop: step after step, with evaluations, checkpoints and a way to stop. It knows no engine, storage or Ray.

In: the plan of batches and five things that a rank can do. Out: the number of steps that are done. Every rank runs the
same loop; what only one rank can know (the clock, a request to stop) is agreed upon once a step.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finetune_api.errors import StorageFailed
from finetune_api.finetunejob import EarlyStopping
from finetune_trainer.training.early_stopping import Evaluated, unbeaten
from finetune_trainer.training.saving import Saved

# Assumed until more are seen: a failure of some node every day.
ASSUMED_BETWEEN_FAILURES_SECONDS = 86_400.0
# Between two checkpoints that nobody asked for: before the first has shown what they cost, and at least.
FIRST_INTERVAL_SECONDS = 300.0
SHORTEST_INTERVAL_SECONDS = 60.0
# A checkpoint that failed is tried again after so long, then after twice as long: 8 minutes in all, until training ends.
FIRST_RETRY_SECONDS = 15.0
MOST_FAILURES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """`stop`: whether any rank wants to; `checkpoint`: what rank 0 said; `saved`: what became of one, as far as this rank knows."""

    stop: bool
    checkpoint: bool
    saved: Saved | None = None


class Rank(Protocol):
    """What the loop asks of the rank that it runs on. All but `agree` and `now` are collective."""

    def train(self, step: int) -> None:
        """Do optimizer step `step`, counted from 0. Raises TrainingFailed when a number is no longer finite."""

    def evaluate(self, step: int) -> float:
        """Loss per supervised token of the held-out dialogues after `step` steps: the same number on every rank."""

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> Saved | None:
        """Begin to save the state after `step` steps, with all evaluations so far; what became of the one before, if it was under way."""

    def last_checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> None:
        """Commit the state after `step` steps, and wait for it. Raises StorageFailed where that can't be done."""

    def agree(self, stop: bool, checkpoint: bool) -> Agreement:
        """What the ranks want, and what became of a checkpoint since the last step."""

    def stop_requested(self) -> bool:
        """Whether somebody asked this rank to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestones:
    """When the loop does more than a step; all in optimizer steps.

    `evaluation_steps` is None when nothing is held out, `early_stopping` when only the last step ends the run.
    `checkpoint_each_evaluation` is what `publish.checkpoint: best` needs. `between_failures_seconds`, for intervals that nobody named.
    """

    total_steps: int
    evaluation_steps: int | None
    early_stopping: EarlyStopping | None
    checkpoint_steps: int | None
    checkpoint_seconds: float | None
    checkpoint_each_evaluation: bool
    between_failures_seconds: float = ASSUMED_BETWEEN_FAILURES_SECONDS

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step` steps: before the first, each so many steps, and at the end."""
        if self.evaluation_steps is None:
            return False
        return step % self.evaluation_steps == 0 or step == self.total_steps


def seconds_between_failures(attempts: int, seconds: float) -> float:
    """The mean, where that many attempts of a run began in so many seconds: each but the last was ended by something.

    What is assumed counts as one more day with one failure: few failures tell little. Only shorter than that, since a run that was
    suspended for weeks has seen no weeks without failure.

    >>> seconds_between_failures(1, 3600.0) / 3600
    24.0
    >>> round(seconds_between_failures(13, 12 * 3600.0) / 3600, 1)  # one an hour
    2.8
    """
    return min(ASSUMED_BETWEEN_FAILURES_SECONDS, (ASSUMED_BETWEEN_FAILURES_SECONDS + seconds) / max(1, attempts))


def automatic_interval(blocked_seconds: float, write_seconds: float, between_failures_seconds: float) -> float:
    """Seconds between checkpoints that lose the least time in all, and are no more than can be written.

    Young's square root of 2 x cost x mean time between failures; the cost is the time for which training waits.

    >>> round(automatic_interval(10.0, 60.0, 86_400.0))
    1315
    >>> automatic_interval(0.1, 600.0, 86_400.0)
    600.0
    """
    return max(math.sqrt(2.0 * blocked_seconds * between_failures_seconds), write_seconds, SHORTEST_INTERVAL_SECONDS)


@dataclass(slots=True)
class CheckpointClock:
    """Says when the next checkpoint is due; lives on every rank, and rank 0's counts."""

    milestones: Milestones
    now: Callable[[], float] = time.monotonic
    interval_seconds: float = field(init=False)
    last: float = field(init=False)
    under_way: bool = False
    failures: int = 0
    _counts: bool = True

    def __post_init__(self) -> None:
        self.interval_seconds = self.milestones.checkpoint_seconds or FIRST_INTERVAL_SECONDS
        self.last = self.now()

    def due(self, step: int) -> bool:
        """Whether `step` steps done is the moment for one. What is asked for by steps waits for the one before, all else comes after it.

        After a failure the next try goes by time alone: steps may be so short that all tries would come within an outage of a minute.
        """
        if self.milestones.checkpoint_steps is not None and not self.failures:
            return step % self.milestones.checkpoint_steps == 0
        return not self.under_way and self.now() - self.last >= self.interval_seconds

    def began(self, *, due: bool = True) -> None:
        """A checkpoint of this moment is under way. One that an evaluation asked for after a failure is a try more, and no failure more."""
        self.under_way, self._counts = True, due or not self.failures
        if self._counts:
            self.last = self.now()

    def hears(self, saved: Saved | None) -> None:
        """What became of it. Raises StorageFailed after so many failures in a row that nobody can expect the next to do better."""
        if saved is None:
            return
        self.under_way = False
        if not saved.problem:
            self.failures = 0
            self.interval_seconds = self.milestones.checkpoint_seconds or automatic_interval(
                saved.blocked_seconds, saved.write_seconds, self.milestones.between_failures_seconds
            )
            return
        if not self._counts:
            return
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise StorageFailed(f"{self.failures} checkpoints in a row failed; the last: {saved.problem}")
        self.last, self.interval_seconds = self.now(), FIRST_RETRY_SECONDS * 2.0 ** (self.failures - 1)


def run_steps(rank: Rank, milestones: Milestones, *, done: int, evaluations: Sequence[Evaluated] = ()) -> int:
    """Go on after `done` steps, whose `evaluations` are known, until all are done, none helps any more, or a stop was agreed on.

    However it ends, the last state is committed. Returns the steps that are done. An error of the rank ends it, and nothing after the
    last checkpoint that was committed is kept.
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
        agreed = rank.agree(rank.stop_requested(), clock.due(done))
        clock.hears(agreed.saved)
        ends = ends or agreed.stop
        if ends:
            rank.last_checkpoint(done, known)
        elif agreed.checkpoint or (milestones.checkpoint_each_evaluation and evaluated):
            clock.hears(rank.checkpoint(done, known))
            clock.began(due=agreed.checkpoint)
    return done
