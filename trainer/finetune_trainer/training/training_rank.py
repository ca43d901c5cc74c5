"""What the loop asks of a rank: a step, an evaluation, a checkpoint, an agreement. Rank 0 alone talks."""

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.duration import model_flops_utilisation
from finetune_api.engines import engine_name
from finetune_api.errors import NonFiniteLoss, StorageFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Notice, StepDone, evaluation_done
from finetune_trainer.training.assembling import evaluation_micro_batch_size, micro_batches
from finetune_trainer.training.batches import BatchPlan
from finetune_trainer.training.blame import told_of_step
from finetune_trainer.training.early_stopping import Evaluated, as_extra
from finetune_trainer.training.loop import Agreement
from finetune_trainer.training.profiling import StepProfiler
from finetune_trainer.training.reading_ahead import ReadingAhead
from finetune_trainer.training.restoring import inputs_of
from finetune_trainer.training.saving import Saved, Saver
from finetune_trainer.training.schedule import learning_rate
from finetune_trainer.training.signs import Signs
from finetune_trainer.training.spikes import Spikes
from finetune_trainer.training.spread import SlowRank, spread
from finetune_trainer.training.step_log import StepLog
from finetune_trainer.training.surroundings import Driver

if TYPE_CHECKING:  # drivers import this file, and no torch
    from finetune_trainer.training.collectives import Ranks
    from finetune_trainer.training.engine import Engine, StepResult
    from finetune_trainer.training.own_time import OwnTime

# Pauses before the last checkpoint of a run is tried once more.
_LAST_PAUSES_SECONDS = (10.0, 30.0, 60.0)


@dataclass(slots=True, kw_only=True)
class TrainingRank:
    """What the loop asks of a rank. Everything but `stop_requested` is collective."""

    run: TrainingRun
    ranks: "Ranks"
    engine: "Engine"
    batches: BatchPlan
    ahead: ReadingAhead
    held_out: BatchPlan | None
    saver: Saver
    driver: Driver
    asked: Callable[[], bool]
    tell: Callable[[Event], None]
    signs: Signs
    profiler: StepProfiler
    footprint_bytes: int
    """Of this process, before the model."""
    own_time: "OwnTime"
    slow: SlowRank
    log: StepLog = field(default_factory=StepLog)
    spikes: Spikes = field(default_factory=Spikes)
    _newest: "tuple[int, StepResult, float] | None" = None
    """The last step, what it did, and its learning rate."""

    def train(self, step: int) -> None:
        """One optimizer step: this rank's micro-batches, normalised by the supervised tokens of all ranks."""
        training, plan = self.run.job.spec.training, self.run.plan
        began = self.log.now()
        rate = learning_rate(
            step,
            training.optimizer,
            peak=training.effective_learning_rate,
            warmup_steps=plan.warmup_steps or 0,
            total_steps=plan.total_steps or 0,
        )
        num_supervised = self.batches.supervised_of_step(step)
        told = self.signs.of_each(f"micro-batches of step {step + 1}", self.ahead.of_step(step))
        with self.profiler.step(step + 1), self._rows_named(step):
            result = self.engine.train_step(told, num_supervised=num_supervised, learning_rate=rate)
        tokens = self.batches.tokens_of_step(step)
        self.log.add(seconds=self.log.now() - began, tokens=tokens, supervised_tokens=num_supervised)
        self._newest = step + 1, result, rate
        self._notice(self.spikes.see(step + 1, result.loss))
        if step == 0 or (step + 1) % training.log_every_steps == 0 or step + 1 == plan.total_steps:
            self._tell_steps()

    @contextmanager
    def _rows_named(self, step: int) -> Iterator[None]:
        """A step of the block that is not finite, which it is on every rank, is told with the rows that made it."""
        from finetune_trainer.training.engine import NonFiniteStep

        try:
            yield
        except NonFiniteStep as error:
            losses = self.ranks.gathered(list(error.losses))
            told = told_of_step(step, error.grad_norm, losses, self.batches, micro_batch_size=self.run.plan.micro_batch_size)
            raise NonFiniteLoss(told) from error

    def _tell_steps(self) -> None:
        """Tell of the steps since the last time, if there are any. Also before a checkpoint: what it holds has been told by then."""
        if self._newest is None or not self.log.steps:
            return
        (step, result, rate), since = self._newest, self.log.take()
        ranks = self.ranks.gathered((peak_memory_bytes(self.engine.device), self.own_time.take()))
        found = spread([seconds for _, seconds in ranks])
        self._notice(self.slow.see(found, since.wall_seconds))
        speed = since.tokens / since.seconds
        self.tell(
            StepDone(
                step=step,
                total_steps=self.run.plan.total_steps or 0,
                epoch=step / self.batches.steps_per_epoch,
                loss=result.loss,
                learning_rate=rate,
                grad_norm=result.grad_norm,
                steps=since.steps,
                supervised_tokens=since.supervised_tokens,
                tokens=since.tokens,
                tokens_per_second=speed,
                memory_bytes=max(memory for memory, _ in ranks),
                seconds=since.seconds,
                footprint_bytes=0 if self.engine.device.type == "cuda" else self.footprint_bytes,
                wall_seconds=since.wall_seconds,
                wall_tokens_per_second=since.wall_tokens_per_second,
                mfu=model_flops_utilisation(self.run, speed),
                spread=None if found is None else found.times,
                slowest="" if found is None else self.slow.names[found.rank],
            )
        )

    def _notice(self, message: str | None) -> None:
        if message is not None:
            self.tell(Notice(message=message))

    def evaluate(self, step: int) -> float:
        """Loss per supervised token over all held-out rows: rank 0's number, since whether training ends hangs on its last bit."""
        assert self.held_out is not None, "the milestones ask for no evaluation without held-out data"
        began = time.monotonic()
        micro_batch_size = evaluation_micro_batch_size(self.run)
        loss_sum, count = 0.0, 0
        for index in range(self.held_out.steps_per_epoch):
            made = micro_batches(self.held_out, self.ranks, micro_batch_size, index)
            told = self.signs.of_each(f"the evaluation after step {step}", made)
            part_sum, part_count = self.engine.evaluate(told)
            loss_sum, count = loss_sum + part_sum, count + part_count
        loss = float(self.ranks.from_first(lambda: loss_sum / count))
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the evaluation loss after step {step} is {loss}; nothing after the last checkpoint is kept. "
                "Begin a new run with a lower spec.training.optimizer.learningRate, or look at the held-out data"
            )
        epoch = step / self.batches.steps_per_epoch
        self.tell(evaluation_done(step=step, epoch=epoch, loss=loss, seconds=time.monotonic() - began))
        return loss

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> Saved | None:
        """Every rank copies its state and begins to write it; what became of the checkpoint before, if it was under way."""
        self._tell_steps()
        return self._told(self.saver.begin(step, self._extra(step, evaluations)))

    def last_checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> None:
        """Every rank writes its part, rank 0 the manifest, and all wait for it. Tried again, since nothing comes after it."""
        self._tell_steps()
        self._told(self.saver.settle())
        for pause in (*_LAST_PAUSES_SECONDS, None):
            saved = self._told(self.saver.save(step, self._extra(step, evaluations)))
            # Rank 0 alone knows how a commit ended.
            problem = self.ranks.gathered(saved.problem if saved is not None else "")[0]
            if not problem:
                return
            if pause is None:
                raise StorageFailed(f"the last checkpoint, of step {step}, could not be saved: {problem}")
            time.sleep(pause)

    def agree(self, stop: bool, checkpoint: bool) -> Agreement:
        """What the ranks want, and how far each is with the checkpoint under way: one exchange a step."""
        answers = self.ranks.gathered((stop, checkpoint, self.saver.word))
        saved = self._told(self.saver.take_up([word for _, _, word in answers]))
        return Agreement(stop=any(stop for stop, _, _ in answers), checkpoint=answers[0][1], saved=saved)

    def _told(self, saved: Saved | None) -> Saved | None:
        """The same, once rank 0 has told it."""
        if saved is not None and saved.manifest is not None:
            made = saved.manifest
            self.tell(
                CheckpointCommitted(
                    step=saved.step,
                    seconds=saved.blocked_seconds,
                    write_seconds=saved.write_seconds,
                    bytes=made.num_bytes,
                    key=made.key,
                )
            )
        elif saved is not None:
            self.tell(Notice(message=f"the checkpoint of step {saved.step} failed, and is tried again: {saved.problem}"))
        return saved

    def _extra(self, step: int, evaluations: Sequence[Evaluated]) -> dict[str, Any]:
        """What a checkpoint keeps besides tensors."""
        return {
            **as_extra(step, evaluations),
            "run": self.run.digest,
            "engine": engine_name(self.run.job.spec.training, self.run.plan.world_size),
            **inputs_of(self.run),
        }

    def stop_requested(self) -> bool:
        """Whether the driver asked for a stop, or this rank's pod is to be stopped. That rank 0 asks is the driver's sign of a step."""
        return self.asked() or (self.ranks.rank == 0 and self.driver.stop_requested())


def peak_memory_bytes(device: Any) -> int:
    """The most memory this rank has held: of its GPU, or of its process."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def resident_bytes() -> int:
    """What this process holds in memory now; 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0
