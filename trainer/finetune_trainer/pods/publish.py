"""The publication pod: a checkpoint becomes a model folder, and that goes where the job says, verified file by file."""

import threading

from finetune_api.keys import PUBLICATION
from finetune_api.pod_result import PodResult, PublicationResult
from finetune_trainer.model.resolve import check_same
from finetune_trainer.pipeline import base_model, export_model, publish_model, write_run_report
from finetune_trainer.pods.pod import Pod, pod_name, run_stage
from finetune_trainer.pods.run_objects import fetch_metrics, put_report, storage_of
from finetune_trainer.storage.errors import answered_before


def published(pod: Pod) -> PodResult:
    """Export from the newest or best checkpoint, publish, and leave the report in storage."""
    run = pod.run()
    local = pod.local(run.job, threading.Event())
    fetch_metrics(local)
    pod.keep_log(storage_of(local))
    with answered_before():
        model = base_model(local, run.model_revision, fetches_weights=False)
    # Its tokenizer and config become part of what is published.
    check_same(run.job.spec.model, run.model_revision, model.revision)
    step, evaluation_loss = export_model(local, run, model, local.sink)
    done = publish_model(local, run, step, evaluation_loss, local.sink)
    write_run_report(local, run, local.sink, published=done.where if done else "")
    put_report(local)
    if done is None:
        return PodResult(outcome="Done", message="spec.publish names no place")
    publication = PublicationResult(repository=done.where, revision=done.revision, step=step, evaluation_loss=evaluation_loss)
    return PodResult(outcome="Done", publication=publication)


def main() -> int:
    """`python -m finetune_trainer.pods publish`."""
    pod = Pod.from_environment()
    with pod.logged(f"{PUBLICATION}/{pod_name()}/main"):
        return run_stage(published, pod)
