"""The preparation pod: everything that would fail hours later is tried now, on CPUs; then the data is tokenised, once, for all ranks."""

from finetune_api.pod_result import PodResult, PreparationResult
from finetune_trainer.pipeline import base_model, check_places
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.pods.prepared_objects import upload_prepared
from finetune_trainer.pods.run_objects import storage_of
from finetune_trainer.preparation import prepare, vocabulary


def prepared(pod: Pod) -> PodResult:
    """Check places, model and data; tokenise; put the result into the job's storage."""
    job = pod.job()
    local = pod.local(job)
    pod.scratch.mkdir(parents=True, exist_ok=True)
    check_places(local)
    model = base_model(local)
    data = prepare(
        job,
        base=local.base,
        model_folder=model.folder,
        folder=local.folder.prepared,
        secrets=local.secrets,
        on_progress=local.sink.record,
    )
    # The prefix is this run's only from the first attempt on: until then the job may be changed, and prepared again.
    upload_prepared(storage_of(local), data.folder)
    return PodResult(
        outcome="Done",
        preparation=PreparationResult(
            model_revision=model.revision,
            model_shape=model.shape,
            vocabulary=vocabulary(job.spec.template, model.folder),
            data=data.data_shape,
        ),
    )


def main() -> int:
    """`python -m finetune_trainer.pods prepare`."""
    return run_stage(prepared, Pod.from_environment())
