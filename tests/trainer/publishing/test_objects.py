"""Publication to object storage: in a real bucket and in a directory, cut off at every call, and met by others."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET
from tests.trainer.publishing.test_hub import exported, local

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_trainer.publishing.model_folder import RECORD_NAME, checked_exported
from finetune_trainer.publishing.objects import CONFIG, MARK, check_prefix, publish_to_storage
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

TWO_SHARDS = {"model-00001-of-00002.safetensors": b"1" * 20, "model-00002-of-00002.safetensors": b"2" * 30}


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "directory":
        yield DirectoryStorage(tmp_path / "storage")
        return
    s3: S3Server = request.getfixturevalue("s3")
    keys = S3Credentials(access_key=s3.access_key, secret_key=s3.secret_key)
    yield open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", endpoint=s3.endpoint, credentials=lambda: keys)


def remote(storage: Storage) -> dict[str, bytes]:
    return {key: storage.get(key) for key, _ in storage.list() if key != MARK}


class Cut(Exception):
    """The process was killed here."""


class Interrupted:
    """A storage whose process is killed before its `after`-th change."""

    def __init__(self, storage: Storage, after: int) -> None:
        self._storage, self._left = storage, after

    def __getattr__(self, name: str) -> Any:
        act: Callable[..., Any] = getattr(self._storage, name)
        if name not in ("put", "put_file", "put_if_absent", "delete"):
            return act

        def counted(*arguments: Any) -> Any:
            if self._left == 0:
                raise Cut
            self._left -= 1
            return act(*arguments)

        return counted


def test_every_file_arrives_and_the_record_names_it(storage: Storage, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    seen: list[tuple[int, int]] = []
    published = publish_to_storage(folder, storage, progress=lambda sent, total: seen.append((sent, total)))
    assert remote(storage) == local(folder)
    assert published.repository == published.url == storage.url
    assert published.revision == hashlib.sha256((folder / RECORD_NAME).read_bytes()).hexdigest()
    assert published.created
    assert seen[-1][0] == seen[-1][1] == sum(digest.size for digest in checked_exported(folder).files.values())


def test_the_same_again_sends_nothing(storage: Storage, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model")
    first = publish_to_storage(folder, storage)
    again = publish_to_storage(folder, Interrupted(storage, 0))  # type: ignore[arg-type]
    assert (again.sent, again.revision) == ((), first.revision)


def test_old_shards_of_ours_go_and_files_of_others_stay(storage: Storage, tmp_path: Path) -> None:
    publish_to_storage(exported(tmp_path / "a", files=TWO_SHARDS), storage)
    storage.put("notes.txt", b"mine")
    published = publish_to_storage(exported(tmp_path / "b", step=9), storage)
    assert published.deleted == tuple(TWO_SHARDS)
    assert not published.created
    assert remote(storage) == local(tmp_path / "b") | {"notes.txt": b"mine"}


def test_cut_off_anywhere_no_reader_sees_half_a_model(tmp_path: Path) -> None:
    """After each change there is the whole old model, the whole new one, or none that a program would load."""
    old, new = exported(tmp_path / "old", files=TWO_SHARDS), exported(tmp_path / "new", step=9)
    for after in range(20):
        storage = DirectoryStorage(tmp_path / f"storage-{after}")
        publish_to_storage(old, storage)
        try:
            publish_to_storage(new, Interrupted(storage, after))  # type: ignore[arg-type]
            break
        except Cut:
            there = remote(storage)
            models = [{path: data for path, data in local(folder).items() if path != RECORD_NAME} for folder in (old, new)]
            assert CONFIG not in there or any(model.items() <= there.items() for model in models)
        publish_to_storage(new, storage)
        assert remote(storage) == local(new)
    assert after > 6


def test_what_a_cut_off_publication_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")
    with pytest.raises(Cut):
        publish_to_storage(exported(tmp_path / "a", files=TWO_SHARDS), Interrupted(storage, 5))  # type: ignore[arg-type]
    assert "model-00001-of-00002.safetensors" in remote(storage)
    publish_to_storage(exported(tmp_path / "b", step=9), storage)
    assert remote(storage) == local(tmp_path / "b")


def test_what_arrived_before_a_cut_is_not_sent_again(storage: Storage, tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", files=TWO_SHARDS)
    with pytest.raises(Cut):
        publish_to_storage(folder, Interrupted(storage, 5))  # type: ignore[arg-type]
    published = publish_to_storage(folder, storage)
    assert "model-00001-of-00002.safetensors" not in published.sent
    assert remote(storage) == local(folder)


def test_another_jobs_model_is_never_overwritten(storage: Storage, tmp_path: Path) -> None:
    publish_to_storage(exported(tmp_path / "a"), storage)
    before = remote(storage)
    other = exported(tmp_path / "b", job="other")
    for act in (lambda: publish_to_storage(other, storage), lambda: check_prefix(storage, "other")):
        with pytest.raises(InvalidPublication, match="holds the model of job demo, not of other; choose another prefix"):
            act()
    assert remote(storage) == before
    check_prefix(storage, "demo")


def test_a_prefix_with_objects_of_others_is_refused(storage: Storage, tmp_path: Path) -> None:
    storage.put("thesis.txt", b"mine")
    with pytest.raises(InvalidPublication, match=r"holds 1 objects that no publication of ours wrote, such as thesis\.txt"):
        publish_to_storage(exported(tmp_path / "a"), storage)
    assert remote(storage) == {"thesis.txt": b"mine"}


def test_of_two_jobs_that_begin_at_once_one_has_the_prefix(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")

    class Beaten:
        def __getattr__(self, name: str) -> Any:
            if name == "put_if_absent" and not storage.exists(MARK):
                publish_to_storage(exported(tmp_path / "a"), storage)
            return getattr(storage, name)

    with pytest.raises(InvalidPublication, match="holds the model of job demo, not of other"):
        publish_to_storage(exported(tmp_path / "b", job="other"), Beaten())  # type: ignore[arg-type]
    assert remote(storage) == local(tmp_path / "a")


def test_what_arrives_altered_is_noticed(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")

    class Altering:
        def put_file(self, key: str, path: Path) -> None:
            storage.put(key, path.read_bytes()[:-1] + b"!")

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

    with pytest.raises(PublicationFailed, match=r"README\.md is not what was sent; does somebody else write there"):
        publish_to_storage(exported(tmp_path / "a"), Altering())  # type: ignore[arg-type]
    assert CONFIG not in remote(storage)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}"])
def test_a_damaged_mark_is_told(text: bytes, tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "storage")
    storage.put(MARK, text)
    with pytest.raises(InvalidPublication, match=r"finetune_publication\.json is damaged; delete the objects there"):
        check_prefix(storage, "demo")
