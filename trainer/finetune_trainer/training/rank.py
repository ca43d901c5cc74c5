"""The worker: the story of training, as one rank lives it.

In: a frozen TrainingRun and where its files are. Every rank opens the same prepared data, computes the same plan of
batches, builds its part of the model, takes up the newest verified checkpoint and goes on from there. Rank 0 alone talks.
Nothing here depends on who started the rank: processes of a laptop and Ray Train's workers in pods run this file unchanged.
"""

import math
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.duration import evaluation_interval
from finetune_api.engines import engine_name, engine_text
from finetune_api.errors import FineTuneError, RunConflict, StorageFailed, TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.manifest import ITEM_BYTES, Manifest
from finetune_trainer.checkpoints.run_record import keep_run
from finetune_trainer.checkpoints.store import CheckpointStore, Claim, Reader
from finetune_trainer.checkpoints.store import Piece as StoredPiece
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.model.resolve import small_files
from finetune_trainer.preparation.packing import pack
from finetune_trainer.preparation.store import META, PreparedData, Side
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Notice, Resumed, StepDone, evaluation_done
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.errors import DamagedCheckpoint
from finetune_trainer.storage.kept_logs import LogPlace, kept, printed_to
from finetune_trainer.training.batches import BatchPlan
from finetune_trainer.training.early_stopping import EVALUATION_LOSS, Evaluated, as_extra, evaluations_in
from finetune_trainer.training.host_memory import available_memory_bytes
from finetune_trainer.training.loop import Agreement, Milestones, run_steps
from finetune_trainer.training.places import Placement, Places
from finetune_trainer.training.profiling import StepProfiler
from finetune_trainer.training.reading_ahead import ReadingAhead
from finetune_trainer.training.saving import Saved, Saver
from finetune_trainer.training.schedule import learning_rate
from finetune_trainer.training.signs import Signs
from finetune_trainer.training.stop_files import StopFiles
from finetune_trainer.training.surroundings import Driver, Position

if TYPE_CHECKING:  # drivers import this file, and no torch
    from finetune_trainer.model.method import Method
    from finetune_trainer.training.collectives import Ranks
    from finetune_trainer.training.engine import Engine

Tell = Callable[[Event], None]

# Pauses before the last checkpoint of a run is tried once more.
_LAST_PAUSES_SECONDS = (10.0, 30.0, 60.0)


def train_on_rank(
    run: TrainingRun, placement: Placement, *, driver: Driver, position: Position, attempt: str, stop_files: StopFiles | None = None
) -> None:
    """Train until done or stopped. Collective: called on every rank, with torch.distributed initialised.

    `attempt` names the logs that are kept. `stop_files`: where this rank's pod is asked to stop; None on one machine.
    """
    with _log_kept(attempt, position.rank) as log:
        try:
            with _until_stopped(stop_files, position) as asked:
                steps_done = _train(run, placement, driver, position, asked, log)
                if steps_done is not None:
                    # Before the pod may go, when it was asked to.
                    driver.finish(steps_done)
        except FineTuneError as error:
            # Before the other ranks are ended, whose errors would only say that this one is gone.
            driver.fail(error.reason, str(error))
            raise


@contextmanager
def _log_kept(attempt: str, rank: int) -> Iterator[LogPlace]:
    """What this rank prints while the block runs, also how it fails, is kept in the place that the block gives."""
    place = LogPlace()
    folder = f"training/{attempt}/rank-{rank}"
    with kept(place, {folder: printed_to()}, masked=Secrets().masked, warn=lambda text: print(text, file=sys.stderr)):
        try:
            yield place
        except Exception:
            traceback.print_exc()
            raise


@contextmanager
def _until_stopped(files: StopFiles | None, position: Position) -> Iterator[Callable[[], bool]]:
    """Whether this rank's own pod is to be stopped, as a question; when the block ends, what waits for the checkpoint may go on.

    The first rank of each pod answers for it. On one machine there are no pods: `files` is None.
    """
    if files is None or position.worker != 0:
        yield lambda: False
        return
    files.clear()
    files.say_running()
    try:
        yield files.requested
    finally:
        files.say_stopped()


def _train(
    run: TrainingRun, placement: Placement, driver: Driver, position: Position, asked: Callable[[], bool], log: LogPlace
) -> int | None:
    """Steps that are done, on rank 0; None on the others."""
    from finetune_trainer.training.collectives import Ranks

    ranks = Ranks()
    check_order(ranks.rank, node=position.node, worker=position.worker, workers=position.workers)

    def tell(event: Event) -> None:
        if ranks.rank == 0:
            driver.record(event)

    # What this node needs, fetched once for all of its ranks.
    signs = Signs(driver.progress)
    with signs.while_reading("fetching the model and the data"):
        places = placement.here(run)
    log.storage = _checkpoints(run, places).storage

    # The data, memory-mapped, and with it the rows of every optimizer step.
    batches = batch_plan(run, places, "train")
    held_out = batch_plan(run, places, "evaluation") if run.data.evaluation is not None else None

    # The model: each rank reads the ranges that it will hold, or rank 0 reads it all and the engine cuts it over the ranks.
    with signs.while_reading("loading the model"):
        method = _method(run, places, ranks, tell)
        footprint = resident_bytes()
        engine = _engine(run, places, ranks, method, tell)

    # The newest verified checkpoint, whatever world size wrote it.
    store = _claimed_checkpoints(run, places, ranks)
    taken_up = restore(engine, store, run, ranks, tell, signs)
    steps_done, evaluations = (taken_up.step, evaluations_in(taken_up.extra)) if taken_up is not None else (0, [])
    if steps_done or store.claim.number > 1:
        tell(Resumed(step=steps_done, attempt=store.claim.number))

    # Step after step, with evaluations and checkpoints, until all are done, the evaluations end it, or somebody asks for a stop.
    rank = TrainingRank(
        run=run,
        ranks=ranks,
        engine=engine,
        batches=batches,
        ahead=ReadingAhead(partial(_micro_batches, batches, ranks, run.plan.micro_batch_size), run.plan.total_steps or 0),
        held_out=held_out,
        saver=_saver(run, store, ranks, engine, tell, signs),
        driver=driver,
        asked=asked,
        tell=tell,
        signs=signs,
        profiler=StepProfiler(places.profile, ranks.rank),
        footprint_bytes=footprint,
    )
    steps_done = run_steps(rank, milestones(run, batches), done=steps_done, evaluations=evaluations)
    return steps_done if ranks.rank == 0 else None


def check_order(rank: int, *, node: int, worker: int, workers: int) -> None:
    """The ranks of a node follow one another, as many on each: collectives cross the network as seldom as they can.

    Raises TrainingFailed where Ray numbered otherwise. `workers`: of this node.
    """
    expected = node * workers + worker
    if rank != expected:
        raise TrainingFailed(
            f"Ray made worker {worker} of {workers} on node {node} rank {rank} and not {expected}: nodes don't run equally many workers; "
            "look at the nodes that joined Ray (each needs spec.workers.gpusPerNode GPUs that nothing else takes), then start the run again"
        )


def batch_plan(run: TrainingRun, places: Places, side: Side) -> BatchPlan:
    """The plan of batches of one side of the split; evaluation goes through the rows in their own order."""
    training = run.job.spec.training
    data = PreparedData.open(Path(places.prepared), side)
    evaluation_rows = run.plan.world_size * evaluation_micro_batch_size(run)
    return BatchPlan(
        examples=data,
        packing=pack(data.lengths, training.max_sequence_length),
        supervised_counts=np.asarray(data.supervised_counts),
        global_batch_size=run.plan.global_batch_size if side == "train" else evaluation_rows,
        seed=training.seed if side == "train" else None,
    )


def evaluation_micro_batch_size(run: TrainingRun) -> int:
    """Rows per worker and forward pass over held-out data."""
    return run.job.spec.evaluation.micro_batch_size or run.plan.micro_batch_size


def milestones(run: TrainingRun, batches: BatchPlan) -> Milestones:
    """When the run evaluates and commits."""
    spec = run.job.spec
    total_steps = run.plan.total_steps
    assert total_steps is not None, "the final plan knows the number of steps"
    every = spec.checkpoints.every
    return Milestones(
        total_steps=total_steps,
        evaluation_steps=evaluation_interval(spec.evaluation, batches.steps_per_epoch) if run.data.evaluation is not None else None,
        early_stopping=spec.evaluation.early_stopping,
        checkpoint_steps=every.steps if every else None,
        checkpoint_seconds=float(every.seconds) if every and every.seconds else None,
        checkpoint_each_evaluation=spec.publish.checkpoint == "best",
    )


def restore(
    engine: "Engine", store: CheckpointStore, run: TrainingRun, ranks: "Ranks", tell: Tell, signs: Callable[[str], None]
) -> Manifest | None:
    """Take up the newest checkpoint that every rank can read to the last byte; it, None when there is none.

    Raises StorageFailed when there are checkpoints and all are damaged: starting anew would bury what may yet be saved.
    """
    damaged: list[str] = []

    def pass_over(message: str) -> None:
        damaged.append(message)
        tell(Notice(message=f"passed over: {message}"))

    candidates = store.candidates(pass_over) if ranks.rank == 0 else iter(())
    while (chosen := ranks.from_first(lambda: _next_place(candidates, run))) is not None:
        checkpoint = store.open(*chosen)
        with store.reader(checkpoint) as reader:
            reader.expect((piece.kind, piece.name, piece.start, piece.stop) for piece in engine.local_state())
            read = _Lenient(reader, signs)
            engine.load_local_state(read, step=chosen[0])
        problems = [problem for problem in ranks.gathered(read.problem) if problem]
        if not problems:
            return checkpoint
        damaged.append(problems[0])
        tell(Notice(message=f"checkpoint of step {chosen[0]} can't be used, the one before it is tried: {problems[0]}"))
    if found := ranks.from_first(lambda: len(damaged)):
        raise StorageFailed(
            f"none of the {found} checkpoints in {store.storage.url} can be read; restore them from a copy, or delete them to begin anew"
        )
    return None


def check_same_inputs(manifest: Manifest, run: TrainingRun) -> None:
    """A checkpoint goes on with the data and the base model that it was made from. Raises RunConflict.

    Storage belongs to a job's settings; what a path or a branch in them holds may have changed since.
    """
    for what, now in _inputs(run).items():
        then = manifest.extra.get(what)
        if then != now:
            raise RunConflict(
                f"checkpoint {manifest.key} was made from another {what} ({str(then)[:19]}; now {now[:19]}); "
                "put it back, or give the run a storage of its own (spec.checkpoints.storage)"
            )


def _inputs(run: TrainingRun) -> dict[str, str]:
    """What shaped a checkpoint besides the job's settings, as its manifest keeps it."""
    return {"data": run.data.fingerprint, "model": run.model_revision}


@dataclass(slots=True)
class _Lenient:
    """Reads zeros from a damaged checkpoint and remembers why: restoring is collective, so no rank may leave in the middle."""

    reader: Reader
    signs: Callable[[str], None]
    problem: str | None = None

    def __call__(self, kind: str, name: str, start: int, stop: int) -> Any:
        self.signs("restoring a checkpoint")
        if self.problem is None:
            try:
                return self.reader.read(kind, name, start, stop)
            except DamagedCheckpoint as error:
                self.problem = str(error)
        return np.zeros(stop - start, dtype=np.float32)


def _next_place(candidates: Iterator[Manifest], run: TrainingRun) -> tuple[int, int] | None:
    manifest = next(candidates, None)
    if manifest is None:
        return None
    check_same_inputs(manifest, run)
    return manifest.step, manifest.attempt


def _method(run: TrainingRun, places: Places, ranks: "Ranks", tell: Tell) -> "Method":
    """How the architecture is computed rightly: in some, dialogues of one row would see one another. A small random copy tells."""
    from finetune_trainer.model.method import cost_of
    from finetune_trainer.model.trial import choose_method

    method = ranks.from_first(lambda: choose_method(Path(places.model), run.job.spec.training))
    if notice := cost_of(method, run.data.train):
        tell(Notice(message=notice))
    return method


def _engine(run: TrainingRun, places: Places, ranks: "Ranks", method: "Method", tell: Tell) -> "Engine":
    from finetune_trainer.model.build import build_model
    from finetune_trainer.training.engine import DTYPES
    from finetune_trainer.training.engines import make_engine

    training, vocabulary = run.job.spec.training, run.vocabulary
    name = engine_name(training, run.plan.world_size)
    model = build_model(
        Path(places.model),
        initialization=run.job.spec.model.initialization,
        seed=training.seed,
        dropout=training.dropout,
        attention_dropout=training.attention_dropout,
        vocabulary_size=vocabulary.size,
        new_token_ids=vocabulary.new_token_ids,
        dtype=DTYPES[run.plan.precision],
        reads=ranks.rank == 0,
        by_range=name == "zero3" and training.adapter is None,
        attention=method.attention,
    )
    if training.adapter is not None:
        from finetune_trainer.model.adapters import adapt, share_trained

        adapt(model, run, reads=ranks.rank == 0)
        tell(Notice(message=share_trained(model)))
    if name == "plain":
        tell(Notice(message=f"trained by {engine_text(name)}: it has nothing to divide, so DeepSpeed is not used"))
    return make_engine(name, model, training, precision=run.plan.precision, method=method)


def _checkpoints(run: TrainingRun, places: Places) -> CheckpointStore:
    return job_checkpoints(run.job, base=Path(places.base), default=Path(places.storage), secrets=Secrets())


def _claimed_checkpoints(run: TrainingRun, places: Places, ranks: "Ranks") -> CheckpointStore:
    """One claim for all ranks: rank 0 takes it, and earlier attempts write nothing from now on."""
    store = _checkpoints(run, places)

    def claimed() -> dict[str, Any]:
        claim = store.claimed().claim
        keep_run(store.storage, run, small_files(Path(places.model)), Path(places.prepared) / META)
        return claim.to_json()

    claim = Claim.from_json(ranks.from_first(claimed))
    return CheckpointStore(store.storage, identity=run.identity, job=run.job.metadata.name, claim=claim)


def _micro_batches(plan: BatchPlan, ranks: "Ranks", micro_batch_size: int, step: int) -> list[MicroBatch]:
    """Those of this rank in a step."""
    return plan.micro_batches(step, ranks.rank, ranks.world_size, micro_batch_size)


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
    tell: Tell
    signs: Signs
    profiler: StepProfiler
    footprint_bytes: int
    """Of this process, before the model."""

    def train(self, step: int) -> None:
        """One optimizer step: this rank's micro-batches, normalised by the supervised tokens of all ranks."""
        training, plan = self.run.job.spec.training, self.run.plan
        began = time.monotonic()
        rate = learning_rate(
            step,
            training.optimizer,
            peak=training.effective_learning_rate,
            warmup_steps=plan.warmup_steps or 0,
            total_steps=plan.total_steps or 0,
        )
        num_supervised = self.batches.supervised_of_step(step)
        told = self.signs.of_each(f"micro-batches of step {step + 1}", self.ahead.of_step(step))
        with self.profiler.step(step + 1):
            result = self.engine.train_step(told, num_supervised=num_supervised, learning_rate=rate)
        if step == 0 or (step + 1) % training.log_every_steps == 0 or step + 1 == plan.total_steps:
            seconds = time.monotonic() - began
            tokens = self.batches.tokens_of_step(step)
            self.tell(
                StepDone(
                    step=step + 1,
                    total_steps=plan.total_steps or 0,
                    epoch=(step + 1) / self.batches.steps_per_epoch,
                    loss=result.loss,
                    learning_rate=rate,
                    grad_norm=result.grad_norm,
                    supervised_tokens=num_supervised,
                    tokens=tokens,
                    tokens_per_second=tokens / seconds,
                    memory_bytes=self.ranks.largest(peak_memory_bytes(self.engine.device)),
                    seconds=seconds,
                    footprint_bytes=0 if self.engine.device.type == "cuda" else self.footprint_bytes,
                )
            )

    def evaluate(self, step: int) -> float:
        """Loss per supervised token over all held-out rows: rank 0's number, since whether training ends hangs on its last bit."""
        assert self.held_out is not None, "the milestones ask for no evaluation without held-out data"
        began = time.monotonic()
        micro_batch_size = evaluation_micro_batch_size(self.run)
        loss_sum, count = 0.0, 0
        for index in range(self.held_out.steps_per_epoch):
            micro_batches = _micro_batches(self.held_out, self.ranks, micro_batch_size, index)
            told = self.signs.of_each(f"the evaluation after step {step}", micro_batches)
            part_sum, part_count = self.engine.evaluate(told)
            loss_sum, count = loss_sum + part_sum, count + part_count
        loss = float(self.ranks.from_first(lambda: loss_sum / count))
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"the evaluation loss after step {step} is {loss}; nothing after the last checkpoint is kept. "
                "Begin a new run (--run-folder) with a lower spec.training.optimizer.learningRate, or look at the held-out data"
            )
        epoch = step / self.batches.steps_per_epoch
        self.tell(evaluation_done(step=step, epoch=epoch, loss=loss, seconds=time.monotonic() - began))
        return loss

    def checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> Saved | None:
        """Every rank copies its state and begins to write it; what became of the checkpoint before, if it was under way."""
        return self._told(self.saver.begin(step, self._extra(step, evaluations)))

    def last_checkpoint(self, step: int, evaluations: Sequence[Evaluated]) -> None:
        """Every rank writes its part, rank 0 the manifest, and all wait for it. Tried again, since nothing comes after it."""
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
            **_inputs(self.run),
        }

    def stop_requested(self) -> bool:
        """Whether the driver asked for a stop, or this rank's pod is to be stopped. That rank 0 asks is the driver's sign of a step."""
        return self.asked() or (self.ranks.rank == 0 and self.driver.stop_requested())


def _saver(run: TrainingRun, store: CheckpointStore, ranks: "Ranks", engine: "Engine", tell: Tell, signs: Callable[[str], None]) -> Saver:
    from finetune_trainer.training.engine import KINDS

    def state() -> Iterator[StoredPiece]:
        """The engine's pieces as the checkpoint's: on the CPU, as NumPy, kind by kind, since an export reads the masters alone."""
        for kind in KINDS:
            for piece in engine.local_state():
                if piece.kind == kind:
                    data = piece.tensor.detach().cpu().numpy()
                    yield StoredPiece(kind=kind, name=piece.name, shape=piece.shape, start=piece.start, stop=piece.stop, data=data)
        yield from _constant(engine.constants)

    def prune() -> None:
        best = best_step(store) if run.job.spec.publish.checkpoint == "best" else None
        store.prune(run.job.spec.checkpoints.keep, protect=() if best is None else (best,))

    return Saver(
        store=store,
        ranks=ranks,
        state=state,
        state_bytes=lambda: sum(piece.stop - piece.start for piece in engine.local_state()) * ITEM_BYTES,
        free_bytes=lambda: _share_of_free_memory(ranks),
        prune=prune,
        notice=lambda text: tell(Notice(message=text)),
        signs=signs,
    )


def _share_of_free_memory(ranks: "Ranks") -> int | None:
    """Host memory that is free, divided by the ranks that share it."""
    free, here = available_memory_bytes(), ranks.gathered(socket.gethostname()).count(socket.gethostname())
    return None if free is None else free // here


def best_step(store: CheckpointStore) -> int | None:
    """The step with the lowest evaluation loss among the checkpoints that exist; the earliest of equals."""
    measured = [(one.extra[EVALUATION_LOSS], one.step) for one in store.complete() if one.extra.get(EVALUATION_LOSS) is not None]
    return min(measured)[1] if measured else None


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


def _constant(tensors: Mapping[str, Any]) -> Iterator[StoredPiece]:
    """What is saved and not trained, whole, as fp32: also whole numbers, which are small."""
    for name, tensor in tensors.items():
        data = tensor.reshape(-1).float().numpy()
        yield StoredPiece(kind="constant", name=name, shape=tuple(tensor.shape), start=0, stop=data.size, data=data)
