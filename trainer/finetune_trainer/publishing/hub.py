"""Publication: an exported folder goes to a Hub repository, and is compared with what arrived there.

One commit holds all files of a model; files that the remote has already are not sent
again, so a publication that was cut off goes on where it stopped. Files that others put into a repository are never touched.
Whether a model is good enough to be published is the caller's question.
"""

from pathlib import Path

from finetune_api.finetunejob import HubPublication
from finetune_trainer.publishing.changes import Publication
from finetune_trainer.publishing.hub_client import PATIENCE, SHORT_PATIENCE, Patience, hub_client, repeated
from finetune_trainer.publishing.hub_repository import HubRepository
from finetune_trainer.publishing.metered_file import Progress
from finetune_trainer.publishing.model_folder import checked_exported

_NO_TOKEN = "set spec.publish.hub.tokenSecret or HF_TOKEN"


def check_hub(hub: HubPublication, token: str | None, *, endpoint: str | None = None) -> None:
    """Refuse with InvalidPublication what would fail after hours of training: no token, a wrong one, one that may not write there.

    Nothing is created. PublicationFailed when the Hub can't be reached.
    """
    with hub_client(token, hub.repository, endpoint, remedy=_NO_TOKEN) as api:
        remote = HubRepository(api, hub)
        repeated(api, hub.repository, SHORT_PATIENCE, remote.check, tell=remote.told)


def publish_to_hub(
    folder: Path,
    hub: HubPublication,
    token: str | None,
    *,
    endpoint: str | None = None,
    progress: Progress = lambda _sent, _total: None,
    patience: Patience = PATIENCE,
) -> Publication:
    """Publish an exported folder as one commit and compare every file with the remote. Without `token`, the one of `hf auth login`.

    The repository is created when absent, and the branch too. InvalidPublication when the Hub refuses, or when the repository
    holds another model; PublicationFailed when it gave up in the middle. Publishing the same model twice makes one commit.
    """
    record = checked_exported(folder)
    with hub_client(token, hub.repository, endpoint, remedy=_NO_TOKEN) as api:
        remote = HubRepository(api, hub)
        return repeated(api, hub.repository, patience, lambda: remote.publish(folder, record, progress), tell=remote.told)
