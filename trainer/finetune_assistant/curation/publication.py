"""A data set on the Hub, or in a folder: its card and one Parquet file, sent as one commit, or put in place whole.

In: a folder with README.md and the file. Out: where it is now. A repository or folder that holds something else is refused, and what others
put beside our two files is never touched. Models are published by `finetune_trainer.publishing`, which knows their records.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_assistant.curation.card import DATA_FILE, MARK
from finetune_trainer.publishing.hub_client import PATIENCE, SHORT_PATIENCE, Patience, hub_client, repeated

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, HfApi

README = "README.md"
_FILES = (README, DATA_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedData:
    """Where a data set was published; `revision` is the commit on the Hub, empty for a folder."""

    url: str
    revision: str = ""
    created: bool = False


def check_data_directory(directory: Path) -> None:
    """Refuse, before rows are read, a folder that holds something else than a data set of ours. Raises InvalidPublication."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    readme = directory / README
    if not readme.is_file() or MARK not in readme.read_text(encoding="utf-8", errors="replace"):
        raise InvalidPublication(f"{directory} exists and holds no data set of ours; choose another folder, or remove it")


def publish_data_to_directory(folder: Path, directory: Path) -> PublishedData:
    """Copy both files there, the card last: a folder without it is not yet a data set. Raises InvalidPublication or PublicationFailed."""
    from finetune_trainer.files.atomic import atomically

    check_data_directory(directory)
    try:
        for name in reversed(_FILES):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with atomically(directory / name) as draft:
                shutil.copyfile(folder / name, draft)
    except OSError as error:
        raise PublicationFailed(f"{directory} can't be written: {error.strerror or error}; mend that, then publish again") from error
    return PublishedData(url=directory.resolve().as_uri())


def check_data_repository(
    repository: str, token: str | None, *, private: bool, endpoint: str | None = None, patience: Patience = SHORT_PATIENCE
) -> None:
    """Refuse what would fail after hours of reading: no token, one that may not write there, a repository of something else."""
    with hub_client(token, repository, endpoint) as api:
        repeated(api, f"data set {repository}", patience, lambda: _check(api, repository, private))


def publish_data_to_hub(
    folder: Path,
    repository: str,
    token: str | None,
    *,
    private: bool = True,
    message: str | None = None,
    endpoint: str | None = None,
    patience: Patience = PATIENCE,
) -> PublishedData:
    """One commit with both files on branch main; the repository is created when absent. Raises InvalidPublication or PublicationFailed."""
    with hub_client(token, repository, endpoint) as api:
        return repeated(api, f"data set {repository}", patience, lambda: _publish(api, folder, repository, private, message))


def _publish(api: "HfApi", folder: Path, repository: str, private: bool, message: str | None) -> PublishedData:
    from huggingface_hub import CommitOperationAdd

    exists = _check(api, repository, private)
    if not exists:
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    head = api.dataset_info(repository).sha
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in _FILES]
    commit = api.create_commit(
        repository, operations, commit_message=message or "Rows of training data", repo_type="dataset", revision="main", parent_commit=head
    )
    _verify(api, folder, repository, commit.oid)
    return PublishedData(url=f"{api.endpoint}/datasets/{repository}", revision=commit.oid, created=not exists)


def _check(api: "HfApi", repository: str, private: bool) -> bool:
    """Whether the repository exists. Raises InvalidPublication where the token can't write, or something else is there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    account = api.whoami(cache=True)
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InvalidPublication(f"the token of {account['name']} may only read; give one with write access to {repository}")
    try:
        info = api.dataset_info(repository)
    except RepositoryNotFoundError:
        namespaces = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
        if role == "write" and repository.split("/")[0] not in namespaces:  # of a fine-grained token only the Hub knows what it may do
            raise InvalidPublication(
                f"{repository} can't be created with the token of {account['name']}; publish under one of: {', '.join(namespaces)}"
            ) from None
        return False
    api.auth_check(repository, repo_type="dataset", write=True)
    if private and not info.private:
        raise InvalidPublication(f"{repository} is public; say --public if the world may have the rows, or publish to another repository")
    if not _is_ours(api, repository, info):
        raise InvalidPublication(f"{repository} holds a data set that `finetune data publish` did not write; publish to another repository")
    return True


def _is_ours(api: "HfApi", repository: str, info: "DatasetInfo") -> bool:
    """Whether a repository has our card, or nothing yet."""
    names = {file.rfilename for file in info.siblings or ()}
    if README not in names:
        return names <= {".gitattributes"}
    with TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, README, repo_type="dataset", revision=info.sha, local_dir=folder)
        return MARK in Path(path).read_text(encoding="utf-8", errors="replace")


def _verify(api: "HfApi", folder: Path, repository: str, commit: str) -> None:
    """Compare the sizes of what arrived; LFS has compared the digest of the data."""
    paths = api.get_paths_info(repository, list(_FILES), repo_type="dataset", revision=commit)
    sizes = {entry.path: getattr(entry, "size", -1) for entry in paths}
    wrong = [name for name in _FILES if sizes.get(name) != (folder / name).stat().st_size]
    if wrong:
        raise PublicationFailed(f"{repository} at {commit[:12]} differs from what was sent in {', '.join(wrong)}; publish again")
