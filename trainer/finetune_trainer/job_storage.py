"""The storage that a job names, opened with the job's settings and secrets: what the pipeline, the worker and `export` share."""

from pathlib import Path

from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import run_identity
from finetune_trainer.checkpoints import CheckpointStore
from finetune_trainer.objects import Storage
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage import open_storage


def job_storage(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> Storage:
    """Where the job's checkpoints go: `spec.checkpoints.storage`, relative to `base`, or the folder `default`. Touches nothing yet."""
    return storage_at(job.spec.checkpoints.storage or str(default), job, base=base, secrets=secrets)


def storage_at(url: str, job: FineTuneJob, *, base: Path, secrets: Secrets) -> Storage:
    """Another place, such as a base model's, with the endpoint and keys of the checkpoints."""
    settings = job.spec.checkpoints
    return open_storage(
        url,
        endpoint=settings.endpoint,
        region=settings.region,
        credentials=lambda: secrets.s3_credentials(settings.credentials_secret, "spec.checkpoints.credentialsSecret"),
        ca_bundle=secrets.ca_bundle(settings.ca_bundle, "spec.checkpoints.caBundle"),
        base=base,
    )


def job_checkpoints(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> CheckpointStore:
    """The job's checkpoints, to be read; writing needs a claim."""
    storage = job_storage(job, base=base, default=default, secrets=secrets)
    return CheckpointStore(storage, identity=run_identity(job), job=job.metadata.name)
