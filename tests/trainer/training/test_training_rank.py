"""training/training_rank.py on an engine that computes nothing: what a rank tells of its steps."""

import math
import random
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from tests.api.jobs import STARCODERBASE, data_shape, job
from tests.trainer.training.test_batches import examples
from tests.trainer.training.test_batches import plan as plan_of_batches

from finetune_api.errors import NonFiniteLoss
from finetune_api.plan import plan
from finetune_api.report import FineTuneReportStatus
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity
from finetune_trainer.pods.report_progress import Progress
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Notice, StepDone
from finetune_trainer.training.engine import NonFiniteStep, StepResult
from finetune_trainer.training.profiling import StepProfiler
from finetune_trainer.training.reading_ahead import ReadingAhead
from finetune_trainer.training.signs import Signs
from finetune_trainer.training.spread import SlowRank
from finetune_trainer.training.step_log import StepLog
from finetune_trainer.training.training_rank import TrainingRank

TOKENS = 1000


@dataclass
class Engine:
    """Each step takes the time that is said, and gives the loss that is said."""

    milliseconds: Sequence[int]
    losses: Sequence[float] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: int = 0
    at: float = 1000.0

    def now(self) -> float:
        return self.at

    def train_step(self, micro_batches: Sequence[Any], *, num_supervised: int, learning_rate: float) -> StepResult:
        self.at += self.milliseconds[self.step] / 1000
        loss = self.losses[self.step] if self.losses else 2.0
        self.step += 1
        return StepResult(loss=loss, loss_sum=loss * num_supervised, grad_norm=1.0)


class Batches:
    steps_per_epoch = 10

    def supervised_of_step(self, step: int) -> int:
        return TOKENS // 2

    def tokens_of_step(self, step: int) -> int:
        return TOKENS


@dataclass
class Alone:
    """The only rank."""

    rank: int = 0
    world_size: int = 1

    def gathered(self, value: Any) -> list[Any]:
        return [value]


@dataclass
class Own:
    """A rank's own seconds a token, as they are said."""

    seconds: list[float]

    def take(self) -> float | None:
        return self.seconds.pop(0) if self.seconds else None


@dataclass
class Beside(Alone):
    """Rank 0 beside another one, which takes half as much memory again, and three times as long."""

    world_size: int = 2

    def gathered(self, value: Any) -> list[Any]:
        memory, seconds = value
        return [value, (memory * 3 // 2, 3.0 * seconds)]


class NothingSaved:
    """A saver that has nothing to tell."""

    word = ""

    def begin(self, step: int, extra: dict[str, Any]) -> None:
        return None


@dataclass
class Told:
    """A rank, and the events that it told."""

    rank: TrainingRank
    events: list[Event] = field(default_factory=list)


def training_run(total_steps: int, log_every: int) -> TrainingRun:
    found, data = job(training={"maxSteps": total_steps, "logEverySteps": log_every}), data_shape()
    return TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="a" * 40,
        model_shape=STARCODERBASE,
        vocabulary=Vocabulary(size=STARCODERBASE.vocabulary_size),
        data=data,
        plan=plan(found, STARCODERBASE, data),
    )


def a_rank(engine: Engine, *, total_steps: int, log_every: int = 1, **others: Any) -> Told:
    events: list[Event] = []
    parts: dict[str, Any] = {
        "run": training_run(total_steps, log_every),
        "ranks": Alone(),
        "engine": engine,
        "batches": Batches(),
        "ahead": ReadingAhead(lambda step: [], total_steps),
        "held_out": None,
        "saver": NothingSaved(),
        "driver": None,
        "asked": lambda: False,
        "tell": events.append,
        "signs": Signs(lambda what: None),
        "profiler": StepProfiler(None, 0),
        "footprint_bytes": 0,
        "own_time": Own([]),
        "slow": SlowRank(["rank 0 on a", "rank 1 on b"]),
        "log": StepLog(now=engine.now),
    }
    return Told(TrainingRank(**parts | others), events)


def reported(events: Sequence[Event]) -> FineTuneReportStatus:
    progress = Progress(FineTuneReportStatus(cluster="c"), lambda: datetime.now(UTC))
    for event in events:
        progress.take(event)
    return progress.status


def committed(step: int) -> CheckpointCommitted:
    return CheckpointCommitted(step=step, seconds=0.5, bytes=1, key=f"checkpoints/step-{step:08d}/attempt-0001/manifest.json")


@pytest.mark.parametrize("seed", range(30))
def test_what_is_told_of_an_undisturbed_run_is_the_same_however_seldom_it_is_logged(seed: int) -> None:
    draw = random.Random(seed)
    total, log_every, evaluation, saved_at = draw.randint(1, 60), draw.randint(1, 70), draw.randint(0, 9000), draw.randint(1, 70)
    milliseconds = [draw.randint(1, 9000) for _ in range(total)]
    engine = Engine(milliseconds)
    told = a_rank(engine, total_steps=total, log_every=log_every)
    for step in range(total):
        engine.at += evaluation / 1000 if step == total // 2 else 0.0
        told.rank.train(step)
        if step + 1 == saved_at:
            told.rank.checkpoint(saved_at, [])
    steps = [event for event in told.events if isinstance(event, StepDone)]
    seconds = sum(milliseconds) / 1000
    assert reported([*told.events, committed(total)]).goodput_seconds == pytest.approx(seconds, abs=0.002)
    assert sum(event.steps for event in steps) == total
    assert sum(event.tokens for event in steps) == total * TOKENS
    assert sum(event.wall_seconds for event in steps) == pytest.approx(seconds + evaluation / 1000)
    assert steps[-1].wall_tokens_per_second == pytest.approx(total * TOKENS / (seconds + evaluation / 1000))
    assert all(event.tokens_per_second == pytest.approx(event.tokens / event.seconds) for event in steps)
    assert saved_at > total or saved_at in [event.step for event in steps], "what a checkpoint holds has been told"


def test_an_attempt_that_dies_has_the_goodput_of_its_newest_checkpoint() -> None:
    engine = Engine([1000] * 20)
    told = a_rank(engine, total_steps=20, log_every=8)
    for step in range(18):
        told.rank.train(step)
        if step + 1 == 13:
            told.rank.checkpoint(13, [])
            told.events.append(committed(13))
    assert reported(told.events).goodput_seconds == 13.0


def test_a_step_that_is_not_finite_names_the_rows_that_made_it() -> None:
    def fails(self: Engine, micro_batches: Sequence[Any], **others: Any) -> StepResult:
        raise NonFiniteStep("step 1: loss nan", 1.0, [math.nan, 1.0])

    engine = Engine([1000])
    engine.train_step = types.MethodType(fails, engine)  # type: ignore[method-assign]
    batches = plan_of_batches(examples(), global_batch_size=8)
    told = a_rank(engine, total_steps=1, batches=batches)
    with pytest.raises(NonFiniteLoss, match=r"^step 1: the loss is NaN or infinite, by a\.jsonl, row") as caught:
        told.rank.train(0)
    assert caught.value.reason == "NonFiniteLoss"


def test_the_slow_rank_is_named_in_each_event_and_told_once_when_it_stays_slow() -> None:
    told = a_rank(Engine([30_000] * 8), total_steps=8, ranks=Beside(), own_time=Own([1e-6] * 8))
    for step in range(8):
        told.rank.train(step)
    steps = [event for event in told.events if isinstance(event, StepDone)]
    assert {(event.spread, event.slowest) for event in steps} == {(3.0, "rank 1 on b")}
    status = reported(told.events)
    assert (status.spread, status.slowest) == (3.0, "rank 1 on b")
    words = "rank 1 on b takes 3.00 times as long as the median for the same work, and all others wait for it"
    assert [event for event in told.events if isinstance(event, Notice)] == [Notice(message=words)]


def test_a_loss_that_jumps_between_two_logged_steps_is_told() -> None:
    told = a_rank(Engine([1000] * 40, losses=[2.0] * 29 + [7.0] + [2.0] * 10), total_steps=40, log_every=8)
    for step in range(40):
        told.rank.train(step)
    (notice,) = [event for event in told.events if isinstance(event, Notice)]
    assert notice.message.startswith("the loss jumped to 7 at step 30, from 2 in the median of the 29 steps before")


def test_mfu_is_told_where_the_peak_is_known() -> None:
    told = a_rank(Engine([1000]), total_steps=1)
    told.rank.train(0)
    (step,) = told.events
    assert isinstance(step, StepDone)
    assert step.mfu is not None
    assert step.mfu > 0
