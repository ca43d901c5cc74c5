"""The main job on one machine: from a FineTuneJob to a published model, stage after stage.

In: a job, its run folder, where events go and a way to ask for a stop. Out: how it ended. Each stage takes what the stage
before it left in the folder or in storage, so the same call goes on wherever an earlier one ended, however it ended. The
stages themselves are in `stages/`; the operator runs them in pods of their own (`pods/`), and only what is around them differs.
"""

import os
import time
from dataclasses import replace

from finetune_api.batch_size import chosen_size
from finetune_api.checks import cluster_only_fields, is_path
from finetune_api.errors import Interrupted, NonFiniteLoss, OutOfMemory, RunConflict
from finetune_api.finetunejob import FineTuneJob
from finetune_api.plan import plan
from finetune_api.training_run import TrainingRun, identity_differences, run_identity
from finetune_trainer.launch.here import warm_up
from finetune_trainer.machine import this_machine, with_workers_of
from finetune_trainer.model.resolve import ModelFiles, read_config
from finetune_trainer.preparation.prepare import Prepared, prepare, prepared_earlier, vocabulary
from finetune_trainer.publishing.model_folder import RECORD_NAME
from finetune_trainer.reporting.events import FanOut, Finished, Notice, Sink, StepDone
from finetune_trainer.reporting.metrics import MetricsFile, read_metrics
from finetune_trainer.reporting.trackers import trackers
from finetune_trainer.stages.beginning import base_model, check_places
from finetune_trainer.stages.evaluation import EvaluationStage, measure_model
from finetune_trainer.stages.export import chosen_checkpoint, describe_model, export_model
from finetune_trainer.stages.local_run import LocalRun, checkpoints_of, until_stopped
from finetune_trainer.stages.next_try import told_with_next_try, with_rows_that_fit
from finetune_trainer.stages.publication import publish_model
from finetune_trainer.stages.run_report import write_run_report
from finetune_trainer.stages.training import train_model
from finetune_trainer.storage.errors import DamagedCheckpoint


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
            return _stages(with_rows_that_fit(local), frozen, evaluation, sinks, began)
        except (OutOfMemory, NonFiniteLoss) as error:
            raise told_with_next_try(local, error) from error
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
        train_model(local, run, model, prepared, sink)
        try:
            exported = export_model(local, run, model, sink)
        except DamagedCheckpoint as error:
            _refuse_damage_before_the_end(local, error)
            sink.record(Notice(message=f"{error}; what came after the checkpoint before it is trained again"))
            train_model(local, run, model, prepared, sink, again=True)
            exported = export_model(local, run, model, sink)
        if measure_model(local, run, exported, evaluation, sink) is not None:
            describe_model(local, run, model, exported.step, exported.checkpoint)
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
        on_progress=until_stopped(local, sink, "preparation"),
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


def _refuse_damage_before_the_end(local: LocalRun, error: DamagedCheckpoint) -> None:
    """Training goes on from the newest checkpoint and makes none of before it again. Raises DamagedCheckpoint with what is left to do."""
    newest = checkpoints_of(local).newest_verified()
    if newest is not None and chosen_checkpoint(local).step < newest.step:
        told = "training doesn't make the best checkpoint again: publish the last one (publish.checkpoint: last), or begin a new run"
        raise DamagedCheckpoint(f"{error}; {told}") from error
