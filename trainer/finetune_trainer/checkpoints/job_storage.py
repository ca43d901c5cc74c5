"""The storage that a job names, opened with the job's settings and secrets: what the pipeline, the worker and `export` share."""

from pathlib import Path

from finetune_api.finetunejob import Checkpoints, FineTuneJob, StoragePublication
from finetune_api.finetunejob.places import scheme
from finetune_api.training_run import run_identity
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.errors import StorageFields
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.probe import check_readable
from finetune_trainer.storage.protocol import Storage


def job_storage(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> Storage:
    """Where the job's checkpoints go: `spec.checkpoints.storage`, relative to `base`, or the folder `default`. Touches nothing yet."""
    settings = job.spec.checkpoints
    return _opened(settings.storage or str(default), settings, base=base, secrets=secrets, fields=StorageFields())


def storage_at(url: str, job: FineTuneJob, *, base: Path, secrets: Secrets) -> Storage:
    """The place of a base model, with the endpoint and keys of the checkpoints. Raises InvalidStorage unless it can be listed."""
    storage = _opened(url, job.spec.checkpoints.as_for(url), base=base, secrets=secrets, fields=StorageFields(storage="spec.model.name"))
    check_readable(storage)
    return storage


def publication_storage(job: FineTuneJob, publication: StoragePublication, *, base: Path, secrets: Secrets) -> Storage:
    """Where the model is published to. What isn't said is as for the checkpoints, unless those are of another kind or server."""
    fields = _PUBLICATION
    checkpoints = job.spec.checkpoints
    if publication.endpoint is not None or scheme(publication.path) != scheme(checkpoints.storage or ""):
        return _opened(publication.path, publication, base=base, secrets=secrets, fields=fields)
    own = {name: value for name in _SETTINGS if (value := getattr(publication, name)) is not None}
    # An error names the field that the setting came from.
    shared = StorageFields()
    fields = StorageFields(
        storage=fields.storage,
        endpoint=shared.endpoint,
        region=fields.region if "region" in own else shared.region,
        credentials=fields.credentials if "credentials_secret" in own else shared.credentials,
        ca_bundle=fields.ca_bundle if "ca_bundle" in own else shared.ca_bundle,
    )
    return _opened(publication.path, checkpoints.model_copy(update=own), base=base, secrets=secrets, fields=fields)


_SETTINGS = ("region", "credentials_secret", "ca_bundle")
_PUBLICATION = StorageFields(
    storage="spec.publish.storage.path",
    endpoint="spec.publish.storage.endpoint",
    region="spec.publish.storage.region",
    credentials="spec.publish.storage.credentialsSecret",
    ca_bundle="spec.publish.storage.caBundle",
)


def _opened(url: str, settings: Checkpoints | StoragePublication, *, base: Path, secrets: Secrets, fields: StorageFields) -> Storage:
    return open_storage(
        url,
        endpoint=settings.endpoint,
        region=settings.region,
        credentials=lambda: secrets.storage_credentials(url, settings.credentials_secret, fields.credentials),
        ca_bundle=secrets.ca_bundle(settings.ca_bundle, fields.ca_bundle),
        base=base,
        fields=fields,
    )


def job_checkpoints(job: FineTuneJob, *, base: Path, default: Path, secrets: Secrets) -> CheckpointStore:
    """The job's checkpoints, to be read; writing needs a claim."""
    storage = job_storage(job, base=base, default=default, secrets=secrets)
    return CheckpointStore(storage, identity=run_identity(job), job=job.metadata.name)
