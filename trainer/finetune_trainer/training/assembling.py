"""What a rank is made of: the plans of its batches, its part of the model with an engine, its checkpoints."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.duration import evaluation_interval
from finetune_api.engines import engine_name, engine_text
from finetune_api.finetunejob import Lora
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.claims import seconds_since_first
from finetune_trainer.checkpoints.columns import COLUMNS
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.manifest import ITEM_BYTES
from finetune_trainer.checkpoints.run_record import keep_run
from finetune_trainer.checkpoints.store import CheckpointStore, Claim
from finetune_trainer.model.micro_batch import MicroBatch
from finetune_trainer.model.resolve import small_files
from finetune_trainer.preparation.packing import pack
from finetune_trainer.preparation.store import META, PreparedData, Side
from finetune_trainer.reporting.events import Event, Notice
from finetune_trainer.secrets import Secrets
from finetune_trainer.training.batches import BatchPlan
from finetune_trainer.training.early_stopping import EVALUATION_LOSS
from finetune_trainer.training.host_memory import available_memory_bytes
from finetune_trainer.training.loop import Milestones, seconds_between_failures
from finetune_trainer.training.places import Placement, Places
from finetune_trainer.training.saving import Saver

if TYPE_CHECKING:  # drivers import this file, and no torch
    from finetune_trainer.model.method import Method
    from finetune_trainer.training.collectives import Ranks
    from finetune_trainer.training.engine import Engine

Tell = Callable[[Event], None]


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


def milestones(run: TrainingRun, batches: BatchPlan, store: CheckpointStore, ranks: "Ranks") -> Milestones:
    """When the run evaluates and commits. Collective."""
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
        between_failures_seconds=ranks.from_first(lambda: seconds_between_failures(store.claim.number, seconds_since_first(store.storage))),
    )


def choose_rank_method(run: TrainingRun, places: Places, ranks: "Ranks", tell: Tell) -> "Method":
    """How the architecture is computed rightly: in some, dialogues of one row would see one another. A small random copy tells."""
    from finetune_trainer.model.method import cost_of
    from finetune_trainer.model.trial import choose_method

    method = ranks.from_first(lambda: choose_method(Path(places.model), run.job.spec.training))
    if notice := cost_of(method, run.data.train):
        tell(Notice(message=notice))
    return method


def make_rank_engine(run: TrainingRun, places: Places, ranks: "Ranks", method: "Method", tell: Tell) -> "Engine":
    from finetune_trainer.model.build import build_model
    from finetune_trainer.training.collectives import rank_device
    from finetune_trainer.training.engine import DTYPES
    from finetune_trainer.training.engines import make_engine

    training, vocabulary = run.job.spec.training, run.vocabulary
    name = engine_name(training, run.plan.world_size)
    # Weights in 4 bits are of no use without their scales, which engines don't send: each rank reads and rounds for itself.
    four_bits_on = rank_device() if training.method == "qlora" else None
    reads = ranks.rank == 0 or four_bits_on is not None
    model = build_model(
        Path(places.model),
        initialization=run.job.spec.model.initialization,
        seed=training.seed,
        dropout=training.dropout,
        attention_dropout=training.attention_dropout,
        vocabulary_size=vocabulary.size,
        new_token_ids=vocabulary.new_token_ids,
        dtype=DTYPES[run.plan.precision],
        reads=reads,
        four_bits_on=four_bits_on,
        restored=not places.weights,
        by_range=name == "zero3" and (training.adapter is None or begins_without_weights(training.adapter)),
        attention=method.attention,
    )
    if training.adapter is not None:
        from finetune_trainer.model.adapters import adapt, share_trained

        adapt(model, run, reads=reads)
        tell(Notice(message=share_trained(model)))
    if name == "plain":
        tell(Notice(message=f"trained by {engine_text(name)}: it has nothing to divide, so DeepSpeed is not used"))
    every = run.plan.recompute_every
    return make_engine(name, model, training, precision=run.plan.precision, method=method, recompute_every=every)


def begins_without_weights(lora: Lora) -> bool:
    """Whether adapters begin as they do whatever the weights are: DoRA's with their norms, modules trained in full with a copy of them."""
    return not (lora.use_dora or lora.modules_to_save)


def checkpoints(run: TrainingRun, places: Placement) -> CheckpointStore:
    return job_checkpoints(run.job, base=Path(places.base), default=Path(places.storage), secrets=Secrets())


def claimed_checkpoints(run: TrainingRun, places: Places, ranks: "Ranks") -> CheckpointStore:
    """One claim for all ranks: rank 0 takes it, and earlier attempts write nothing from now on."""
    store = checkpoints(run, places)

    def claimed() -> dict[str, Any]:
        claim = store.claimed().claim
        keep_run(store.storage, run, small_files(Path(places.model)), Path(places.prepared) / META)
        return claim.to_json()

    claim = Claim.from_json(ranks.from_first(claimed))
    return CheckpointStore(store.storage, identity=run.identity, job=run.job.metadata.name, claim=claim)


def micro_batches(plan: BatchPlan, ranks: "Ranks", micro_batch_size: int, step: int) -> list[MicroBatch]:
    """Those of this rank in a step."""
    return plan.micro_batches(step, ranks.rank, ranks.world_size, micro_batch_size)


def make_saver(
    run: TrainingRun, store: CheckpointStore, ranks: "Ranks", engine: "Engine", tell: Tell, signs: Callable[[str], None]
) -> Saver:
    from finetune_trainer.training.engine_snapshot import snapshot_of

    def notice(text: str) -> None:
        tell(Notice(message=text))

    def prune() -> list[str]:
        damaged: list[str] = []
        best = best_step(store) if run.job.spec.publish.checkpoint == "best" else None
        store.prune(run.job.spec.checkpoints.keep, () if best is None else (best,), damaged.append)
        return damaged

    return Saver(
        store=store,
        ranks=ranks,
        snapshot=snapshot_of(engine, notice),
        state_bytes=lambda: sum(piece.stop - piece.start for piece in engine.local_state()) * ITEM_BYTES,
        free_bytes=lambda: _share_of_free_memory(ranks),
        prune=prune,
        notice=notice,
        signs=signs,
        # ZeRO-2 cuts between tensors: what a rank needs of those in columns is a part of each.
        columns=1 if run.job.spec.training.sharding == "zero2" else COLUMNS,
    )


def _share_of_free_memory(ranks: "Ranks") -> int | None:
    """Host memory that is free, divided by the ranks that share it."""
    free, here = available_memory_bytes(), ranks.gathered(socket.gethostname()).count(socket.gethostname())
    return None if free is None else free // here


def best_step(store: CheckpointStore, notice: Callable[[str], None] = lambda message: None) -> int | None:
    """The step with the lowest evaluation loss among the checkpoints that exist; the earliest of equals. `notice` hears of damaged ones."""
    measured = [(one.extra[EVALUATION_LOSS], one.step) for one in store.complete(notice) if one.extra.get(EVALUATION_LOSS) is not None]
    return min(measured)[1] if measured else None
