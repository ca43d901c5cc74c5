"""Training from the newest checkpoint to the last step, by workers of this machine; none starts where a checkpoint ends it."""

from finetune_api.errors import Interrupted
from finetune_api.training_run import TrainingRun
from finetune_trainer.launch import driver
from finetune_trainer.launch.here import workers_here
from finetune_trainer.model.resolve import ModelFiles
from finetune_trainer.preparation.prepare import Prepared
from finetune_trainer.reporting.events import Notice, Sink, StageStarted, StoppedEarly
from finetune_trainer.stages.attempt_log import attempt_kept
from finetune_trainer.stages.local_run import LocalRun, checkpoints_of
from finetune_trainer.storage.kept_logs import attempt_name
from finetune_trainer.training.early_stopping import stopped_early
from finetune_trainer.training.places import Places
from finetune_trainer.training.profiling import profile_of
from finetune_trainer.training.restoring import check_same_inputs


def train_model(local: LocalRun, run: TrainingRun, model: ModelFiles, prepared: Prepared, sink: Sink, *, again: bool = False) -> None:
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
    profile = None
    if local.profile is not None:
        done = newest.step if newest is not None else 0
        profile = profile_of(local.profile, done=done, total_steps=total_steps, folder=local.folder.profile)
    places = Places(
        model=str(model.folder),
        prepared=str(prepared.folder),
        base=str(local.base),
        storage=str(local.folder.storage),
        profile=profile,
    )
    attempt = attempt_name()
    with attempt_kept(local, attempt, sink) as told:
        told.record(StageStarted(stage="training", total=total_steps, unit="steps"))
        with workers_here(
            run, places, attempt=attempt, logs=local.folder.path / "logs", dashboard=local.dashboard, tell=told.record
        ) as workers:
            done = driver.train(workers, gpu=run.plan.device == "gpu", sink=told, stop=local.stop)
        if done < total_steps:
            if (early := ended_early(local, run)) is None:
                left = f"stopped after step {done} of {total_steps}; its checkpoint is committed, the same command goes on from there"
                raise Interrupted(left)
            told.record(early)


def ended_early(local: LocalRun, run: TrainingRun) -> StoppedEarly | None:
    """What to tell, if the newest checkpoint is where earlyStopping ended the training."""
    newest = checkpoints_of(local).newest_verified()
    return None if newest is None else stopped_early(run, newest)
