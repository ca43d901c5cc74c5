"""The preparation pod: everything that would fail hours later is tried now, on CPUs; then the data is tokenised, once, for all ranks.

A pod that comes after another one, or a job that is applied again, finds the data in storage and doesn't tokenise it. Weights are
nobody's business here: their headers are read where they are.
"""

from collections.abc import Callable

from finetune_api.keys import PREPARATION
from finetune_api.pod_result import PodResult, PreparationResult
from finetune_api.training_run import DataShape
from finetune_trainer.model.resolve import ModelFiles
from finetune_trainer.pods.pod import Pod, pod_name, run_stage
from finetune_trainer.pods.prepared_objects import prepared_key, upload_prepared, uploaded_meta
from finetune_trainer.pods.run_objects import storage_of
from finetune_trainer.preparation.prepare import find_data, shape_of, tokenise, vocabulary
from finetune_trainer.reporting.events import Notice
from finetune_trainer.stages.beginning import base_model, check_places, try_architecture
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.storage.errors import answered_before
from finetune_trainer.storage.kept_logs import begun_now


def prepared(pod: Pod) -> PodResult:
    """Check places, model and data; tokenise; put the result into the job's storage."""
    job = pod.job()
    local = pod.local(job)
    pod.scratch.mkdir(parents=True, exist_ok=True)
    check_places(local)
    pod.keep_log(storage_of(local))
    with answered_before():
        model = base_model(local, fetches_weights=False)
        data = _data(local, model)
        try_architecture(local, model, data)
        return PodResult(
            outcome="Done",
            preparation=PreparationResult(
                model_revision=model.revision,
                model_shape=model.shape,
                vocabulary=vocabulary(job.spec.template, model.folder),
                data=data,
            ),
        )


def _data(local: LocalRun, model: ModelFiles) -> DataShape:
    """The shape of the data, which is in the job's storage then."""
    record = local.sink.record
    found = find_data(local.job, base=local.base, model_folder=model.folder, secrets=local.secrets, on_progress=record)
    # The prefix is this run's only from the first attempt on: until then the job may be changed, and prepared again.
    storage = storage_of(local)
    meta = uploaded_meta(storage, found.fingerprint)
    if meta is not None:
        record(Notice(message=f"data prepared earlier is used again: {storage.url}/{prepared_key(found.fingerprint, '')}"))
        return shape_of(meta)
    data = tokenise(found, local.folder.prepared, record)
    upload_prepared(storage, data.folder)
    return data.data_shape


def main(stage: Callable[[Pod], PodResult] = prepared) -> int:
    """`python -m finetune_trainer.pods prepare`; `stage`: what is looked at besides, and then `prepared`."""
    pod = Pod.from_environment()
    with pod.logged(f"{PREPARATION}/{begun_now(pod_name())}/main"):
        return run_stage(stage, pod)
