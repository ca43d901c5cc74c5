"""A data set is published by the real client over HTTP, to a Hub on the loopback; and to a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.assistant.curation.dataset_repository import WRITE, DatasetHub, dataset_hub
from tests.trainer.hub_server import Fault

from finetune_api.errors import FineTuneError, InvalidPublication, PublicationFailed
from finetune_assistant.curation.card import DATA_FILE, MARK
from finetune_assistant.curation.publication import (
    PublishedData,
    check_data_directory,
    check_data_repository,
    publish_data_to_directory,
    publish_data_to_hub,
)
from finetune_trainer.publishing.hub_client import Patience

IMPATIENT = Patience(attempts=3, wait_seconds=0.01, timeout_seconds=30.0)


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    with dataset_hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "made", b"PAR1 first")


def made(folder: Path, data: bytes) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{MARK}\n# Chats\n")
    (folder / DATA_FILE).write_bytes(data)
    return folder


def publish(hub: DatasetHub, folder: Path, *, repository: str = "ann/chats", token: str = WRITE, private: bool = True) -> PublishedData:
    return publish_data_to_hub(folder, repository, token, private=private, endpoint=hub.url, patience=IMPATIENT)


def test_one_commit_with_both_files_and_a_second_one_replaces_them(hub: DatasetHub, folder: Path) -> None:
    first = publish(hub, folder)
    assert (first.url, first.created) == (f"{hub.url}/datasets/ann/chats", True)
    repository = hub.repositories["ann/chats"]
    assert repository.private
    assert repository.branches["main"] == first.revision
    made(folder, b"PAR1 second")
    second = publish(hub, folder)
    assert not second.created
    files = hub.files("ann/chats")
    assert files.keys() == {".gitattributes", "README.md", DATA_FILE}
    assert files[DATA_FILE] == b"PAR1 second"
    assert len(repository.commits) == 3
    assert second.revision != first.revision


def test_what_others_put_beside_it_stays(hub: DatasetHub, folder: Path) -> None:
    hub.create("ann/chats", {"README.md": MARK.encode(), "notes.txt": b"mine"}, private=True)
    publish(hub, folder)
    assert hub.files("ann/chats")["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("token", "repository", "files", "said"),
    [
        ("", "ann/chats", None, "no token to publish to ann/chats; set HF_TOKEN"),
        ("hf_nobody", "ann/chats", None, "the Hub does not accept the token"),
        ("hf_read", "ann/chats", None, "the token of ann may only read"),
        ("hf_write", "eve/chats", None, "eve/chats can't be created with the token of ann; publish under one of: ann, org"),
        ("hf_write", "ann/chats", {"README.md": b"# Mine"}, "holds a data set that `finetune data publish` did not write"),
        ("hf_write", "ann/chats", {"rows.csv": b"a,b"}, "holds a data set that `finetune data publish` did not write"),
        ("hf_write", "ann/a chat", None, "is no name of a repository"),
    ],
)
def test_refusals_send_nothing(
    hub: DatasetHub, folder: Path, token: str, repository: str, files: dict[str, bytes] | None, said: str
) -> None:
    if files is not None:
        hub.create(repository, files, private=True)
    for refused in (
        lambda: publish(hub, folder, token=token, repository=repository),
        lambda: check_data_repository(repository, token, private=True, endpoint=hub.url, patience=IMPATIENT),
    ):
        with pytest.raises(InvalidPublication) as error:
            refused()
        assert said in str(error.value)
        assert not token or token not in str(error.value)
    assert hub.asked("^POST /(api/models/[^/]+/[^/]+/(commit|preupload)|ann)") == []


def test_a_public_repository_is_no_place_for_what_is_private(hub: DatasetHub, folder: Path) -> None:
    hub.create("ann/chats", private=False)
    with pytest.raises(InvalidPublication, match="ann/chats is public; say --public"):
        publish(hub, folder)
    publish(hub, folder, private=False)
    assert DATA_FILE in hub.files("ann/chats")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST .*/commit/", "status", status=503),
        Fault("GET .*/whoami-v2", "cut"),
        Fault("PUT /lfs/", "status", status=500),
        Fault("POST .*/commit/", "lost"),
    ],
    ids=str,
)
def test_a_fault_passes(hub: DatasetHub, folder: Path, fault: Fault) -> None:
    hub.faults.append(fault)
    publish(hub, folder)
    assert hub.files("ann/chats")[DATA_FILE] == b"PAR1 first"


def test_a_hub_that_goes_on_failing(hub: DatasetHub, folder: Path) -> None:
    hub.faults.append(Fault("POST .*/commit/", "status", times=99))
    with pytest.raises(PublicationFailed, match=r"failed: .*; publish again when it answers") as error:
        publish(hub, folder)
    assert WRITE not in str(error.value)


def test_a_folder(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "published"
    publish_data_to_directory(folder, place)
    (place / "notes.txt").write_text("mine")
    made(folder, b"PAR1 second")
    assert publish_data_to_directory(folder, place) == PublishedData(url=place.as_uri())
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert found.keys() == {"README.md", DATA_FILE, "notes.txt"}
    assert found[DATA_FILE] == b"PAR1 second"


def test_folders_of_others(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    check_data_directory(tmp_path / "other")
    (tmp_path / "other/README.md").write_text("# Mine")
    (tmp_path / "file").write_text("")
    for place in ("other", "file"):
        with pytest.raises(InvalidPublication, match="holds no data set of ours"):
            publish_data_to_directory(folder, tmp_path / place)
    with pytest.raises(FineTuneError):
        publish_data_to_directory(folder, tmp_path / "file/inside")
