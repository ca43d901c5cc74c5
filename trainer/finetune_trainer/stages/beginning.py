"""What a run begins with: places that can be written, the base model, an architecture that can be trained rightly."""

import os
from pathlib import Path

from finetune_api.finetunejob import Training
from finetune_api.model_shape import can_count
from finetune_api.training_run import DataShape, run_identity
from finetune_trainer.checkpoints import claims
from finetune_trainer.checkpoints.job_storage import job_storage, storage_at
from finetune_trainer.model.resolve import ModelFiles, read_config, resolve_model
from finetune_trainer.preparation.prepare import vocabulary
from finetune_trainer.publishing.directory import check_directory
from finetune_trainer.publishing.place import check_place
from finetune_trainer.reporting.events import Notice
from finetune_trainer.reporting.trackers import check_trackers
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.storage.probe import check_writable


def check_places(local: LocalRun) -> None:
    """What would fail hours later: storage that can't be written or is another run's, a repository that can't be pushed to."""
    check_trackers(local.job, os.environ)
    storage = job_storage(local.job, base=local.base, default=local.folder.storage, secrets=local.secrets)
    check_writable(storage)
    for folder in (local.folder.model, local.folder.adapter):
        check_directory(folder, local.job.metadata.name)
    claims.check_owner(storage, identity=run_identity(local.job), job=local.job.metadata.name)
    check_place(local.job, base=local.base, secrets=local.secrets)


def base_model(local: LocalRun, revision: str | None = None, *, fetches_weights: bool = True, cache: Path | None = None) -> ModelFiles:
    """The base model on this machine, fetched if need be; `revision`: the commit that a frozen run began with.

    Without `fetches_weights`: what preparation and export need of it. `cache`: where it is kept, if not in the run folder.
    """
    return resolve_model(
        local.job.spec.model,
        base=local.base,
        cache=cache or local.folder.models,
        secrets=local.secrets,
        storage_opener=lambda url: storage_at(url, local.job, base=local.base, secrets=local.secrets),
        revision=revision,
        fetches_weights=fetches_weights,
    )


def _asking_for_bitsandbytes(training: Training) -> str | None:
    """The field that does, with its value; None where none does."""
    if training.method == "qlora":
        return "spec.training.method: qlora"
    return "spec.training.optimizer.name: adamw8bit" if training.optimizer.name == "adamw8bit" else None


def try_architecture(local: LocalRun, model: ModelFiles, data: DataShape) -> None:
    """Refuse an architecture that no way of training is right for before a worker starts, and say what the way that is right costs.

    Only for families that the contract has no formula for, whose counting loads torch anyway: of the others, workers alone try theirs.
    Settings of adapters are tried on any.
    """
    lora, template = local.job.spec.training.adapter, local.job.spec.template
    if lora is not None:
        from finetune_trainer.model.adapters import try_adapters

        try_adapters(model.folder, lora, vocabulary(template, model.folder))
    if asked_by := _asking_for_bitsandbytes(local.job.spec.training):
        from finetune_trainer.model.four_bits import check_available

        check_available(asked_by)
    if can_count(read_config(model.folder / "config.json")):
        return
    from finetune_trainer.model.method import cost_of
    from finetune_trainer.model.trial import choose_method

    if notice := cost_of(choose_method(model.folder, local.job.spec.training), data.train):
        local.sink.record(Notice(message=notice))
