"""The evaluation pod: a checkpoint becomes a model folder, which is measured beside its base, and what is found goes to the job's storage.

A pod that comes after one that was killed finds there what that one had done. How models are measured is `job_evaluation`'s business.
"""

import os
import signal
import threading
from pathlib import Path

from finetune_api.evaluation_digest import evaluation_digest
from finetune_api.evaluation_summary import EVALUATION_FOLDER
from finetune_api.keys import EVALUATION
from finetune_api.pod_result import PodResult
from finetune_assistant.job_evaluation.stage import JobEvaluation
from finetune_assistant.job_evaluation.summary import result_of
from finetune_assistant.pods.kept_folder import KeptFolder
from finetune_trainer.model.resolve import check_same
from finetune_trainer.pods.nodes import MODEL_CACHE_ENV
from finetune_trainer.pods.pod import Pod, pod_name, run_stage
from finetune_trainer.pods.run_objects import fetch_metrics, storage_of
from finetune_trainer.publishing.changes import judge_goes_on
from finetune_trainer.stages.beginning import base_model
from finetune_trainer.stages.evaluation import measure_model
from finetune_trainer.stages.export import chosen_checkpoint, export_model
from finetune_trainer.storage.errors import answered_before
from finetune_trainer.storage.kept_logs import begun_now


def evaluated(pod: Pod, stop: threading.Event) -> PodResult:
    """Measure what the job asks for of the newest or best checkpoint. Raises Interrupted once `stop` is set."""
    run = pod.run_as_asked()
    if not run.job.spec.evaluation.has_stage:
        return PodResult(outcome="Done", message="spec.evaluation asks for nothing after training")
    local = pod.local(run.job, stop)
    fetch_metrics(local)
    # Where its data comes from is looked up in the run folder: a benchmark may have been trained on.
    local.folder.freeze(run, local.base)
    storage = storage_of(local)
    pod.keep_log(storage)
    place = f"{EVALUATION_FOLDER}/{evaluation_digest(run.identity, run.job)}"
    kept = KeptFolder(storage, place, local.folder.evaluation(run))
    stage = JobEvaluation(saved=kept.copy)
    stage.check(local)
    kept.fetch()
    summary = local.folder.summary(run)
    if summary is None or summary.checkpoint != chosen_checkpoint(local).digest or judge_goes_on(run.job.spec.publish.gate, summary):
        with answered_before():
            cache = os.environ.get(MODEL_CACHE_ENV)
            model = base_model(local, run.model_revision, cache=Path(cache) if cache else None)
        check_same(run.job.spec.model, run.model_revision, model.revision)
        exported = export_model(local, run, model, local.sink)
        with kept.followed():
            summary = measure_model(local, run, exported, stage, local.sink)
        kept.copy()
    assert summary is not None, "it is asked for"
    return PodResult(outcome="Done", evaluation=result_of(summary, f"{storage.url}/{place}"))


def main() -> int:
    """`python -m finetune_assistant.pods evaluate`."""
    pod, stop = Pod.from_environment(), threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    with pod.logged(f"{EVALUATION}/{begun_now(pod_name())}/main"):
        return run_stage(lambda pod: evaluated(pod, stop), pod)
