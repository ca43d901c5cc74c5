"""The publication pod: a checkpoint becomes a model folder, and that goes where the job says, verified file by file."""

import threading

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import LARGEST_SUMMARY_BYTES, SUMMARY_FILE, parse_summary, summary_key
from finetune_api.keys import PUBLICATION
from finetune_api.pod_result import PodResult, PublicationResult
from finetune_api.training_run import TrainingRun
from finetune_trainer.files.atomic import make_folder, write_atomically
from finetune_trainer.model.resolve import check_same
from finetune_trainer.pods.pod import Pod, pod_name, run_stage
from finetune_trainer.pods.run_objects import fetch_metrics, fetch_statistics, put_report, storage_of
from finetune_trainer.reporting.events import Notice
from finetune_trainer.stages.beginning import base_model
from finetune_trainer.stages.export import chosen_checkpoint, export_model
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.stages.publication import publish_model
from finetune_trainer.stages.run_report import write_run_report
from finetune_trainer.storage.errors import MissingObject, answered_before
from finetune_trainer.storage.kept_logs import begun_now


def published(pod: Pod) -> PodResult:
    """Export from the newest or best checkpoint, publish, and leave the report in storage."""
    run = pod.run_as_asked()
    local = pod.local(run.job, threading.Event())
    fetch_metrics(local)
    fetch_statistics(local, run)
    fetch_summary(local, run)
    pod.keep_log(storage_of(local))
    trains_adapter, whole = run.job.spec.training.adapter is not None, not run.job.spec.publishes_adapter
    with answered_before():
        model = base_model(local, run.model_revision, fetches_weights=trains_adapter and whole)
    # Its tokenizer and config become part of what is published.
    check_same(run.job.spec.model, run.model_revision, model.revision)
    exported = export_model(local, run, model, local.sink, whole=whole)
    done = publish_model(local, run, exported, local.sink)
    write_run_report(local, run, local.sink, published=done.where if done else "")
    put_report(local)
    if done is None:
        return PodResult(outcome="Done", message="spec.publish names no place")
    publication = PublicationResult(repository=done.where, revision=done.revision, step=exported.step, evaluation_loss=exported.loss)
    return PodResult(outcome="Done", publication=publication)


def fetch_summary(local: LocalRun, run: TrainingRun) -> None:
    """Bring what the evaluation found into the run folder, for card, report and gate, if the job asks for one and it is there."""
    if not run.job.spec.evaluation.has_stage:
        return
    digest, folder = evaluation_digest(run.identity, run.job), local.folder.evaluation(run)
    key = summary_key(digest)
    try:
        # Whoever may write to the storage may have put anything there.
        data = storage_of(local).get(key, 0, LARGEST_SUMMARY_BYTES + 1)
    except MissingObject:
        local.sink.record(Notice(message=f"card and report are without the evaluation: there is no {key} in the job's storage"))
        return
    summary = parse_summary(data, digest)
    if summary is None or summary.checkpoint != chosen_checkpoint(local).digest:
        local.sink.record(Notice(message=f"card and report are without the evaluation: {key} is not of the checkpoint that is published"))
        return
    make_folder(folder)
    write_atomically(folder / SUMMARY_FILE, data)


def main() -> int:
    """`python -m finetune_trainer.pods publish`."""
    pod = Pod.from_environment()
    with pod.logged(f"{PUBLICATION}/{begun_now(pod_name())}/main"):
        return run_stage(published, pod)
