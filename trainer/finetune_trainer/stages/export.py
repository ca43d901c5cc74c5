"""From the checkpoint that is to be published to a model folder, with the adapter's folder beside it for LoRA."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import InvalidPublication
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.launch.local_workers import apart
from finetune_trainer.machine import hardware_text
from finetune_trainer.model.adapter_folder import export_adapter
from finetune_trainer.model.merged import merged_weights
from finetune_trainer.model.resolve import ModelFiles
from finetune_trainer.publishing.card import card_texts
from finetune_trainer.publishing.export import CheckpointWeights, Weights, describe, export, generation_text
from finetune_trainer.publishing.model_folder import RECORD_NAME, checked_exported
from finetune_trainer.reporting.events import Notice, Sink, StageAdvanced, StageStarted
from finetune_trainer.stages.local_run import LocalRun, checkpoints_of, until_stopped
from finetune_trainer.stages.run_report import run_report_data
from finetune_trainer.training.assembling import best_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A checkpoint as a model folder: its step and digest, and its evaluation loss if there is one.

    `base`: the base model's folder, of `base_revision`; None where it gives an architecture without weights.
    """

    folder: Path
    step: int
    checkpoint: str
    loss: float | None
    base: Path | None
    base_revision: str


def export_model(local: LocalRun, run: TrainingRun, model: ModelFiles, sink: Sink, *, whole: bool = True) -> Exported:
    """The exported model of the checkpoint that is to be published. What is there already isn't written again.

    Of a LoRA run the adapter and, unless `whole` is False, the whole model, which takes the base's weights.
    """
    store = checkpoints_of(local)
    folders = [local.folder.model] if whole else []
    folders += [] if run.job.spec.training.adapter is None else [local.folder.adapter]
    chosen = chosen_checkpoint(local, lambda text: sink.record(Notice(message=text)))
    if not _is_exported(folders, run, chosen):
        record = until_stopped(local, sink, "export")
        with store.reader(chosen) as reader:
            weights = CheckpointWeights(reader)
            if run.job.spec.training.adapter is not None:
                export_adapter(run, weights, step=chosen.step, base=model.folder, folder=local.folder.adapter)
            if whole:
                # Those of the plan lack the rows of new tokens.
                all_weights: Weights = weights if run.job.spec.training.adapter is None else merged_weights(run, weights, model.folder)
                sink.record(StageStarted(stage="export", total=sum(map(math.prod, all_weights.shapes.values())), unit="parameters"))
                export(
                    run,
                    all_weights,
                    step=chosen.step,
                    base=model.folder,
                    folder=local.folder.model,
                    progress=lambda done, _total: record(StageAdvanced(stage="export", done=done)),
                    apart=apart,
                )
    # The weights are safe; what describes them may fail and be written again.
    describe_model(local, run, model, chosen.step, chosen.digest)
    loss = chosen.extra.get("evaluationLoss")
    return Exported(
        folder=folders[0],
        step=chosen.step,
        checkpoint=chosen.digest,
        loss=None if loss is None else float(loss),
        base=model.folder if local.job.spec.model.initialization == "pretrained" else None,
        base_revision=model.revision,
    )


def chosen_checkpoint(local: LocalRun, notice: Callable[[str], None] = lambda message: None) -> Manifest:
    """The checkpoint that is to be published: the newest, or the best as the job says. `notice` hears of those passed over as damaged."""
    store = checkpoints_of(local)
    is_best = local.job.spec.publish.checkpoint == "best"
    chosen = store.open(best_step(store, notice) or 0) if is_best else store.newest_verified(notice)
    assert chosen is not None, "training ends with a checkpoint"
    return chosen


def describe_model(local: LocalRun, run: TrainingRun, model: ModelFiles, step: int, checkpoint: str) -> None:
    """Card, job and generation config of what is exported, by what is known now; and which checkpoint it is of."""
    data = run_report_data(local, run)
    for folder in (local.folder.model, local.folder.adapter):
        if not (folder / RECORD_NAME).is_file():
            continue
        texts = card_texts(data, step=step, base=model.folder, exported=folder, hardware=hardware_text())
        if folder == local.folder.model:
            texts |= {"generation_config.json": generation_text(folder, local.job.spec.generation)}
        describe(folder, texts, checkpoint=checkpoint)


def _is_exported(folders: Sequence[Path], run: TrainingRun, chosen: Manifest) -> bool:
    """Whether these hold this checkpoint of this run, every file as it was written."""
    if not all((folder / RECORD_NAME).is_file() for folder in folders):
        return False
    try:
        records = [checked_exported(folder) for folder in folders]
    except InvalidPublication:
        return False
    return all((record.identity, record.checkpoint) == (run.identity, chosen.digest) for record in records)
