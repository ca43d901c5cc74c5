"""The storage that a job names, opened with the job's settings and secrets: what the pipeline, the worker and `export` share."""

from pathlib import Path

from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import run_identity
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.errors import StorageFields
from finetune_trainer.storage.probe import check_readable
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3 import open_storage


def job_storage(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> Storage:
    """Where the job's checkpoints go: `spec.checkpoints.storage`, relative to `base`, or the folder `default`. Touches nothing yet."""
    return _opened(job.spec.checkpoints.storage or str(default), job, base=base, secrets=secrets, fields=StorageFields())


def storage_at(url: str, job: FineTuneJob, *, base: Path, secrets: Secrets) -> Storage:
    """The place of a base model, with the endpoint and keys of the checkpoints. Raises InvalidStorage unless it can be listed."""
    storage = _opened(url, job, base=base, secrets=secrets, fields=StorageFields(storage="spec.model.name"))
    check_readable(storage)
    return storage


def _opened(url: str, job: FineTuneJob, *, base: Path, secrets: Secrets, fields: StorageFields) -> Storage:
    settings = job.spec.checkpoints
    return open_storage(
        url,
        endpoint=settings.endpoint,
        region=settings.region,
        credentials=lambda: secrets.s3_credentials(settings.credentials_secret, "spec.checkpoints.credentialsSecret"),
        ca_bundle=secrets.ca_bundle(settings.ca_bundle, "spec.checkpoints.caBundle"),
        base=base,
        fields=fields,
    )


def job_checkpoints(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> CheckpointStore:
    """The job's checkpoints, to be read; writing needs a claim."""
    storage = job_storage(job, base=base, default=default, secrets=secrets)
    return CheckpointStore(storage, identity=run_identity(job), job=job.metadata.name)
