"""The main job on one machine: from a FineTuneJob to a published model, stage after stage.

In: a job, its run folder, where events go and a way to ask for a stop. Out: how it ended. Each stage takes what the stage
before it left in the folder or in storage, so the same call goes on wherever an earlier one ended, however it ended. The
operator runs the same stages in pods of their own (`pods/`); only what is around them differs.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from finetune_api.batch_size import chosen_size
from finetune_api.checks import cluster_only_fields, is_path
from finetune_api.errors import FineTuneError, Interrupted, InvalidPublication, InvalidSpec, Problem, RunConflict
from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_api.finetunejob import FineTuneJob
from finetune_api.model_shape import can_count
from finetune_api.plan import plan
from finetune_api.training_run import DataShape, TrainingRun, identity_differences, run_identity
from finetune_trainer.checkpoints import claims
from finetune_trainer.checkpoints.job_storage import job_checkpoints, job_storage, storage_at
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.launch import driver
from finetune_trainer.launch.here import warm_up, workers_here
from finetune_trainer.launch.local_workers import apart
from finetune_trainer.machine import hardware_text, library_versions, this_machine, with_workers_of
from finetune_trainer.model.adapter_folder import export_adapter
from finetune_trainer.model.merged import merged_weights
from finetune_trainer.model.resolve import ModelFiles, read_config, resolve_model
from finetune_trainer.preparation.prepare import Prepared, prepare, prepared_earlier, vocabulary
from finetune_trainer.publishing.card import card_texts
from finetune_trainer.publishing.changes import GateClosed, judge_goes_on, refused_by_gate
from finetune_trainer.publishing.directory import check_directory
from finetune_trainer.publishing.export import CheckpointWeights, Weights, describe, export, generation_text
from finetune_trainer.publishing.model_folder import RECORD_NAME, checked_exported
from finetune_trainer.publishing.place import check_place, publish_to
from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    Event,
    FanOut,
    Finished,
    Notice,
    Published,
    Sink,
    StageAdvanced,
    StageStarted,
    StepDone,
    StoppedEarly,
)
from finetune_trainer.reporting.metrics import MetricsFile, read_metrics
from finetune_trainer.reporting.report import ReportData, report_data, write_report
from finetune_trainer.reporting.trackers import check_trackers, trackers
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.errors import DamagedCheckpoint
from finetune_trainer.storage.kept_logs import attempt_name
from finetune_trainer.storage.probe import check_writable
from finetune_trainer.training.assembling import best_step
from finetune_trainer.training.early_stopping import stopped_early
from finetune_trainer.training.places import Places
from finetune_trainer.training.profiling import Profile
from finetune_trainer.training.restoring import check_same_inputs


@dataclass(slots=True, kw_only=True)
class LocalRun:
    """One run on this machine. `base` is where relative paths of the job begin; `sink` is the user's (a terminal, JSON lines).

    `profile`: the first and the last step of a trace.
    """

    job: FineTuneJob
    base: Path
    folder: RunFolder
    sink: Sink
    stop: threading.Event
    dashboard: bool = False
    profile: tuple[int, int] | None = None
    secrets: Secrets = field(default_factory=Secrets)


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


class EvaluationStage(Protocol):
    """What is measured after training, by whoever may talk to models: this package can't."""

    def check(self, local: LocalRun) -> None:
        """Refuse before training what would fail after it. Nothing happens for a job that asks for no such evaluation."""

    def measure(self, local: LocalRun, exported: Exported, folder: Path, digest: str, record: Callable[[Event], None]) -> EvaluationSummary:
        """Measure an exported checkpoint, into `folder`: what an earlier call left there isn't done again. `record` ends it by raising."""


def run_job(local: LocalRun, evaluation: EvaluationStage) -> Finished:
    """Prepare, train, export, evaluate, publish, report. Raises Interrupted after a stop, with a checkpoint committed after any step."""
    began = time.monotonic()
    local = replace(local, job=with_workers_of(this_machine(), local.job))
    plan(local.job, local.job.spec.model.shape, None, this_machine())
    with local.folder.locked():
        frozen = local.folder.frozen_run()
        if frozen is not None:
            _refuse_another_run(local, frozen)
        sinks = FanOut([local.sink, MetricsFile(local.folder.metrics), *trackers(local.job, os.environ, local.folder.tensorboard)])
        try:
            return _stages(local, frozen, evaluation, sinks, began)
        finally:
            sinks.close()


def _stages(local: LocalRun, frozen: TrainingRun | None, evaluation: EvaluationStage, sink: Sink, began: float) -> Finished:
    """The story; `frozen` is the run as an earlier call left it."""
    _say_what_does_not_apply(local.job, sink)
    check_places(local)
    evaluation.check(local)
    model = base_model(local, frozen.model_revision if frozen else None)
    if not local.dashboard and not (local.folder.model / RECORD_NAME).is_file():
        planned = plan(local.job, model.shape, None, this_machine())
        warm_up(str(read_config(model.folder / "config.json").get("model_type")), local.job.spec.training, planned)
    prepared = _prepare(local, frozen, model, sink)
    run = _freeze(local, frozen, model, prepared)
    try:
        _train(local, run, model, prepared, sink)
        try:
            exported = export_model(local, run, model, sink)
        except DamagedCheckpoint as error:
            _refuse_damage_before_the_end(local, error)
            sink.record(Notice(message=f"{error}; what came after the checkpoint before it is trained again"))
            _train(local, run, model, prepared, sink, again=True)
            exported = export_model(local, run, model, sink)
        if measure_model(local, run, exported, evaluation, sink) is not None:
            _describe(local, run, model, exported.step, exported.checkpoint)
        published = publish_model(local, run, exported, sink)
    except BaseException as error:
        write_run_report(local, run, sink, outcome="stopped" if isinstance(error, Interrupted) else "failed")
        raise
    write_run_report(local, run, sink, published=published.where if published else "")
    losses = [event.loss for event in read_metrics(local.folder.metrics) if isinstance(event, StepDone)]
    finished = Finished(
        model=str(local.folder.model),
        report=str(local.folder.report),
        step=exported.step,
        loss=losses[-1] if losses else None,
        evaluation_loss=exported.loss,
        seconds=time.monotonic() - began,
    )
    sink.record(finished)
    return finished


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


def try_architecture(local: LocalRun, model: ModelFiles, data: DataShape) -> None:
    """Refuse an architecture that no way of training is right for before a worker starts, and say what the way that is right costs.

    Only for families that the contract has no formula for, whose counting loads torch anyway: of the others, workers alone try theirs.
    Settings of adapters are tried on any.
    """
    lora, template = local.job.spec.training.adapter, local.job.spec.template
    if lora is not None:
        from finetune_trainer.model.adapters import try_adapters

        try_adapters(model.folder, lora, vocabulary(template, model.folder))
    if can_count(read_config(model.folder / "config.json")):
        return
    from finetune_trainer.model.method import cost_of
    from finetune_trainer.model.trial import choose_method

    if notice := cost_of(choose_method(model.folder, local.job.spec.training), data.train):
        local.sink.record(Notice(message=notice))


def _until_stopped(local: LocalRun, sink: Sink, stage: str) -> Callable[[Event], None]:
    """Records events, and ends a stage that has nothing to lose when a stop is asked for."""

    def record(event: Event) -> None:
        sink.record(event)
        if local.stop.is_set():
            raise Interrupted(f"stopped during {stage}; nothing is lost, the same command goes on")

    return record


def _refuse_another_run(local: LocalRun, frozen: TrainingRun) -> None:
    """A run folder goes on with the run that it began; what may not change between attempts is named."""
    if frozen.identity != run_identity(local.job):
        changed = ", ".join(identity_differences(frozen.job, local.job)) or "how an earlier version made ids of the same texts"
        raise RunConflict(
            f"run folder {local.folder.path} belongs to another run of job {frozen.job.metadata.name!r}: {changed} differs. "
            "Model, data, template and training can't change within a run; use --run-folder for a new one, or delete the folder"
        )


def _say_what_does_not_apply(job: FineTuneJob, sink: Sink) -> None:
    if fields := cluster_only_fields(job):
        sink.record(Notice(message=f"these fields act only on a cluster: {', '.join(fields)}"))


def check_places(local: LocalRun) -> None:
    """What would fail hours later: storage that can't be written or is another run's, a repository that can't be pushed to."""
    check_trackers(local.job, os.environ)
    storage = job_storage(local.job, base=local.base, default=local.folder.storage, secrets=local.secrets)
    check_writable(storage)
    for folder in (local.folder.model, local.folder.adapter):
        check_directory(folder, local.job.metadata.name)
    claims.check_owner(storage, identity=run_identity(local.job), job=local.job.metadata.name)
    check_place(local.job, base=local.base, secrets=local.secrets)


def _prepare(local: LocalRun, frozen: TrainingRun | None, model: ModelFiles, sink: Sink) -> Prepared:
    """The data, read and tokenised; what a run has begun with stays, whatever a branch on the Hub points to since."""
    if frozen is not None and not all(is_path(source.path) for source in local.job.spec.dataset.sources):
        earlier = prepared_earlier(local.folder.prepared, frozen.data.fingerprint)
        if earlier is not None:
            sink.record(Notice(message=f"data prepared when this run began is used: {earlier.folder}"))
            return earlier
    return prepare(
        local.job,
        base=local.base,
        model_folder=model.folder,
        folder=local.folder.prepared,
        secrets=local.secrets,
        on_progress=_until_stopped(local, sink, "preparation"),
    )


def _freeze(local: LocalRun, frozen: TrainingRun | None, model: ModelFiles, prepared: Prepared) -> TrainingRun:
    """The final plan, frozen in run.json. A run that goes on may have other workers; model, data and arithmetic are still the same."""
    machine = this_machine() if frozen is None else replace(this_machine(), fast_bf16=frozen.plan.precision == "bf16")
    run = TrainingRun(
        job=local.job,
        identity=run_identity(local.job),
        model_revision=model.revision,
        model_shape=model.shape,
        vocabulary=vocabulary(local.job.spec.template, model.folder),
        data=prepared.data_shape,
        plan=plan(local.job, model.shape, prepared.data_shape, machine),
    )
    if frozen is None and local.job.spec.training.global_batch_size is None:
        local.sink.record(Notice(message=chosen_size(run.plan.global_batch_size, run.plan.total_steps)))
    if frozen is not None:
        for what, then, now in (
            (f"the base model {local.job.spec.model.name}", frozen.model_revision, run.model_revision),
            ("the data", frozen.data.fingerprint, run.data.fingerprint),
        ):
            if then != now:
                raise RunConflict(
                    f"{what} has changed since this run began ({then[:12]} then, {now[:12]} now); "
                    f"put it back, or begin a new run with --run-folder"
                )
    local.folder.freeze(run, local.base)
    return run


def _train(local: LocalRun, run: TrainingRun, model: ModelFiles, prepared: Prepared, sink: Sink, *, again: bool = False) -> None:
    """Train unless a checkpoint ends the training; `again`: even then, as it is damaged. Raises Interrupted after a stop."""
    total_steps = run.plan.total_steps
    assert total_steps is not None, "the final plan knows the number of steps"
    newest = checkpoints_of(local).newest_verified()
    if newest is not None:
        check_same_inputs(newest, run)
    if newest is not None and newest.step >= total_steps and not again:
        sink.record(Notice(message=f"all {total_steps} steps are done already: checkpoint {newest.key}"))
        return
    if newest is not None and (early := stopped_early(run, newest)) is not None and not again:
        sink.record(early)
        return
    if local.stop.is_set():
        raise Interrupted("stopped before training; nothing is lost, the same command goes on")
    places = Places(
        model=str(model.folder),
        prepared=str(prepared.folder),
        base=str(local.base),
        storage=str(local.folder.storage),
        profile=_profile(local, newest.step if newest is not None else 0, total_steps),
    )
    sink.record(StageStarted(stage="training", total=total_steps, unit="steps"))
    with workers_here(
        run, places, attempt=attempt_name(), logs=local.folder.path / "logs", dashboard=local.dashboard, tell=sink.record
    ) as workers:
        done = driver.train(workers, gpu=run.plan.device == "gpu", sink=sink, stop=local.stop)
    if done < total_steps:
        if (early := ended_early(local, run)) is None:
            told = f"stopped after step {done} of {total_steps}; its checkpoint is committed, the same command goes on from there"
            raise Interrupted(told)
        sink.record(early)


def _profile(local: LocalRun, done: int, total_steps: int) -> Profile | None:
    """What `--profile` asks for. Raises InvalidSpec when none of it is to come."""
    if local.profile is None:
        return None
    first, last = local.profile
    if not (done < first and last <= total_steps):
        raise InvalidSpec(
            [Problem("--profile", f"{first}-{last} is not all among steps {done + 1} to {total_steps}", "choose some of these")]
        )
    return Profile(first=first, last=last, folder=str(local.folder.profile))


def _refuse_damage_before_the_end(local: LocalRun, error: DamagedCheckpoint) -> None:
    """Training goes on from the newest checkpoint and makes none of before it again. Raises DamagedCheckpoint with what is left to do."""
    newest = checkpoints_of(local).newest_verified()
    if newest is not None and chosen_checkpoint(local).step < newest.step:
        told = "training doesn't make the best checkpoint again: publish the last one (publish.checkpoint: last), or begin a new run"
        raise DamagedCheckpoint(f"{error}; {told}") from error


def ended_early(local: LocalRun, run: TrainingRun) -> StoppedEarly | None:
    """What to tell, if the newest checkpoint is where earlyStopping ended the training."""
    newest = checkpoints_of(local).newest_verified()
    return None if newest is None else stopped_early(run, newest)


def export_model(local: LocalRun, run: TrainingRun, model: ModelFiles, sink: Sink) -> Exported:
    """The exported model of the checkpoint that is to be published. What is there already isn't written again."""
    store = checkpoints_of(local)
    chosen = chosen_checkpoint(local)
    if not _is_exported(local, run, chosen):
        record = _until_stopped(local, sink, "export")
        with store.reader(chosen) as reader:
            weights = CheckpointWeights(reader)
            # Those of the plan lack the rows of new tokens.
            whole: Weights = weights
            if run.job.spec.training.adapter is not None:
                export_adapter(run, weights, step=chosen.step, base=model.folder, folder=local.folder.adapter)
                whole = merged_weights(run, weights, model.folder)
            sink.record(StageStarted(stage="export", total=sum(map(math.prod, whole.shapes.values())), unit="parameters"))
            export(
                run,
                whole,
                step=chosen.step,
                base=model.folder,
                folder=local.folder.model,
                progress=lambda done, _total: record(StageAdvanced(stage="export", done=done)),
                apart=apart,
            )
    # The weights are safe; what describes them may fail and be written again.
    _describe(local, run, model, chosen.step, chosen.digest)
    loss = chosen.extra.get("evaluationLoss")
    return Exported(
        folder=local.folder.model,
        step=chosen.step,
        checkpoint=chosen.digest,
        loss=None if loss is None else float(loss),
        base=model.folder if local.job.spec.model.initialization == "pretrained" else None,
        base_revision=model.revision,
    )


def chosen_checkpoint(local: LocalRun) -> Manifest:
    """The checkpoint that is to be published: the newest, or the best as the job says."""
    store = checkpoints_of(local)
    chosen = store.open(best_step(store) or 0) if local.job.spec.publish.checkpoint == "best" else store.newest_verified()
    assert chosen is not None, "training ends with a checkpoint"
    return chosen


def _describe(local: LocalRun, run: TrainingRun, model: ModelFiles, step: int, checkpoint: str) -> None:
    """Card, job and generation config of the exported model, by what is known now; and which checkpoint it is of."""
    data, exported = _report_data(local, run), local.folder.model
    texts = card_texts(data, step=step, base=model.folder, exported=exported, hardware=hardware_text())
    generation = {"generation_config.json": generation_text(exported, local.job.spec.generation)}
    describe(exported, texts | generation, checkpoint=checkpoint)
    if run.job.spec.training.adapter is not None:
        adapter = local.folder.adapter
        cards = card_texts(data, step=step, base=model.folder, exported=adapter, hardware=hardware_text())
        describe(adapter, cards, checkpoint=checkpoint)


def _is_exported(local: LocalRun, run: TrainingRun, chosen: Manifest) -> bool:
    """Whether model/, and adapter/ of a LoRA run, hold this checkpoint of this run, every file as it was written."""
    folders = [local.folder.model, *([] if run.job.spec.training.adapter is None else [local.folder.adapter])]
    if not all((folder / RECORD_NAME).is_file() for folder in folders):
        return False
    try:
        records = [checked_exported(folder) for folder in folders]
    except InvalidPublication:
        return False
    return all((record.identity, record.checkpoint) == (run.identity, chosen.digest) for record in records)


def measure_model(local: LocalRun, run: TrainingRun, exported: Exported, stage: EvaluationStage, sink: Sink) -> EvaluationSummary | None:
    """What the job asks to be measured of the exported model; None where it asks for nothing. Not measured again if it is there."""
    if not run.job.spec.evaluation.has_stage:
        return None
    folder, kept = local.folder.evaluation(run), local.folder.summary(run)
    if kept is not None and kept.checkpoint == exported.checkpoint and not judge_goes_on(run.job.spec.publish.gate, kept):
        sink.record(Notice(message=f"step {exported.step} is evaluated already: {folder}"))
        return kept
    return stage.measure(local, exported, folder, evaluation_digest(run.identity, run.job), _until_stopped(local, sink, "evaluation"))


def publish_model(local: LocalRun, run: TrainingRun, exported: Exported, sink: Sink) -> Published | None:
    """Send the exported model where the job says, unless a gate closes."""
    publish = local.job.spec.publish
    if publish.place is None:
        return None
    if refusal := refused_by_gate(publish.gate, exported.loss, exported.step, local.folder.summary(run)):
        raise GateClosed(
            f"not published: {refusal}; the model is kept in {local.folder.model}. "
            "Ease the gate, or train longer in a new run (--run-folder)"
        )
    sink.record(StageStarted(stage="publication", unit="bytes"))
    done = publish_to(
        publish.place,
        local.folder.published(local.job),
        job=local.job,
        base=local.base,
        secrets=local.secrets,
        progress=lambda sent, total: sink.record(StageAdvanced(stage="publication", done=sent, detail=f"of {total:,} bytes")),
    )
    published = Published(where=done.repository, revision=done.revision)
    sink.record(published)
    return published


def _report_data(local: LocalRun, run: TrainingRun, *, outcome: str = "finished", published: str = "") -> ReportData:
    committed = [
        CheckpointCommitted(
            step=one.step,
            seconds=one.extra.get("seconds", 0.0),
            bytes=one.num_bytes,
            key=one.key,
            write_seconds=one.extra.get("writeSeconds", 0.0),
        )
        for one in checkpoints_of(local).candidates()
    ]
    return report_data(
        local.folder.path,
        run=run,
        outcome=outcome,
        checkpoints=committed[::-1],
        versions=library_versions(),
        published=published,
        evaluation=local.folder.summary(run),
    )


def write_run_report(local: LocalRun, run: TrainingRun, sink: Sink, *, outcome: str = "finished", published: str = "") -> None:
    """Write the report; what stands in its way (a full disk, storage that is gone) must neither hide a failure nor undo a success."""
    try:
        write_report(_report_data(local, run, outcome=outcome, published=published), local.folder.report)
    except (OSError, FineTuneError) as error:
        sink.record(Notice(message=f"no report was written: {error}"))


def checkpoints_of(local: LocalRun) -> CheckpointStore:
    return job_checkpoints(local.job, base=local.base, default=local.folder.storage, secrets=local.secrets)
