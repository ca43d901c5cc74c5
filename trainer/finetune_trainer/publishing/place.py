"""The place that a job names for its model: tried before training, written after it."""

from collections.abc import Callable
from pathlib import Path

from finetune_api.finetunejob import DirectoryPublication, FineTuneJob, HubPublication, StoragePublication
from finetune_trainer.checkpoints.job_storage import publication_storage
from finetune_trainer.publishing.changes import Publication
from finetune_trainer.publishing.directory import check_directory, publication_directory, publish_to_directory
from finetune_trainer.publishing.hub import check_hub, publish_to_hub
from finetune_trainer.publishing.objects import check_prefix, publish_to_storage
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.probe import check_writable

Place = HubPublication | DirectoryPublication | StoragePublication
_TOKEN = "spec.publish.hub.tokenSecret"


def check_place(job: FineTuneJob, *, base: Path, secrets: Secrets) -> None:
    """Refuse what would fail after hours of training: a place that can't be written, or that holds another model. Sends nothing."""
    match job.spec.publish.place:
        case HubPublication() as hub:
            check_hub(hub, secrets.hub_token(hub.token_secret, _TOKEN))
        case DirectoryPublication() as directory:
            check_directory(publication_directory(directory, base), job.metadata.name)
        case StoragePublication() as named:
            storage = publication_storage(job, named, base=base, secrets=secrets)
            check_writable(storage)
            check_prefix(storage, job.metadata.name)
        case None:
            pass


def publish_to(
    place: Place,
    folder: Path,
    *,
    job: FineTuneJob,
    base: Path,
    secrets: Secrets,
    progress: Callable[[int, int], None] = lambda _sent, _total: None,
) -> Publication:
    """Publish an exported folder there and compare it file by file; `progress` gets (bytes sent, of how many)."""
    match place:
        case HubPublication():
            return publish_to_hub(folder, place, secrets.hub_token(place.token_secret, _TOKEN), progress=progress)
        case DirectoryPublication():
            return publish_to_directory(folder, publication_directory(place, base))
        case StoragePublication():
            return publish_to_storage(folder, publication_storage(job, place, base=base, secrets=secrets), progress=progress)
