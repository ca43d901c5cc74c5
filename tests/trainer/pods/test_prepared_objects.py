"""Prepared data in storage: uploaded once, complete or not there, fetched whole and verified."""

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET
from tests.trainer.faulty_proxy import Fault, faulty_proxy
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import StorageFailed
from finetune_trainer.pods.prepared_objects import fetch_prepared, prepared_key, upload_prepared
from finetune_trainer.preparation.store import PreparedData, write_store
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

NAME = "f" * 64
MARKER = prepared_key(NAME, "complete.json")
LARGE = 3 * 2**20  # tokens: 12 MiB, more than a part of an upload


def store(folder: Path, *, first: int = 5, tokens: int = 6) -> Path:
    with write_store(folder, NAME) as writer:
        ids = np.arange(first, first + tokens, dtype=np.uint32)
        writer.append("train", ids, np.ones(tokens, np.uint8), np.array([tokens - 2, 2]), 2, [("a.jsonl", 1), ("a.jsonl", 2)])
        writer.add_text("note.txt", "hello")
    return folder / NAME


def s3_storage(s3: S3Server, endpoint: str | None = None, prefix: str | None = None) -> Storage:
    return open_storage(
        f"s3://{BUCKET}/{prefix or uuid.uuid4().hex}",
        endpoint=endpoint or s3.endpoint,
        credentials=lambda: S3Credentials(access_key=s3.access_key, secret_key=s3.secret_key),
    )


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage("objects", base=tmp_path) if request.param == "directory" else s3_storage(request.getfixturevalue("s3"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_uploaded_comes_back_whole(storage: Storage, tmp_path: Path) -> None:
    source = store(tmp_path / "source", tokens=LARGE)
    upload_prepared(storage, source)
    assert {key for key, _ in storage.list()} == {MARKER, *(prepared_key(NAME, name) for name in contents(source))}
    folder = fetch_prepared(storage, NAME, tmp_path / "node")
    assert folder == tmp_path / "node" / NAME
    assert contents(folder) == contents(source)
    assert PreparedData.open(folder, "train").num_tokens == LARGE
    assert [path.name for path in (tmp_path / "node").iterdir()] == [NAME]


def test_what_is_there_is_used_again_without_storage(storage: Storage, tmp_path: Path) -> None:
    upload_prepared(storage, store(tmp_path / "source"))
    first = fetch_prepared(storage, NAME, tmp_path)
    assert fetch_prepared(MemoryStorage(), NAME, tmp_path) == first


class Counting(MemoryStorage):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def put_file(self, key: str, path: Path) -> None:
        self.written.append(key)
        super().put_file(key, path)


def test_a_complete_upload_is_not_repeated(tmp_path: Path) -> None:
    storage, source = Counting(), store(tmp_path)
    upload_prepared(storage, source)
    before = len(storage.written)
    upload_prepared(storage, source)
    assert len(storage.written) == before == len(contents(source))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"format": 1, "files": [{}]}', b'{"format": 1}', None])
def test_a_marker_that_says_something_else_is_written_again(tmp_path: Path, damage: bytes | None) -> None:
    storage, source = Counting(), store(tmp_path)
    upload_prepared(storage, source)
    storage.objects[MARKER] = damage if damage is not None else storage.objects[MARKER].replace(b'"format": 1', b'"format": 2')
    upload_prepared(storage, source)
    assert contents(fetch_prepared(storage, NAME, tmp_path / "node")) == contents(source)


@pytest.mark.parametrize("change", ["cut", "missing", "other data"])
def test_objects_that_do_not_agree_are_uploaded_again(storage: Storage, tmp_path: Path, change: str) -> None:
    source = store(tmp_path / "source")
    upload_prepared(storage, source)
    key = prepared_key(NAME, "train.ids.bin")
    if change == "cut":
        storage.put(key, b"short")
    elif change == "missing":
        storage.delete([key])
    else:
        source = store(tmp_path / "source", first=9)
    upload_prepared(storage, source)
    assert contents(fetch_prepared(storage, NAME, tmp_path / "node")) == contents(source)


class Breaking(MemoryStorage):
    """Fails at one key, as storage that gives up in the middle."""

    fails_at = ""

    def put_file(self, key: str, path: Path) -> None:
        if key == self.fails_at:
            raise StorageFailed("gave up")
        super().put_file(key, path)


def test_an_upload_that_broke_off_does_not_count(tmp_path: Path) -> None:
    """Not even one that was to replace a complete upload."""
    storage = Breaking()
    upload_prepared(storage, store(tmp_path))
    storage.fails_at = prepared_key(NAME, "note.txt")
    changed = store(tmp_path, first=9)
    with pytest.raises(StorageFailed, match="gave up"):
        upload_prepared(storage, changed)
    with pytest.raises(StorageFailed, match=f"memory: there is no {MARKER}: .*never uploaded to the end.*; run the preparation again"):
        fetch_prepared(storage, NAME, tmp_path / "node")
    assert not (tmp_path / "node").exists()
    storage.fails_at = ""
    upload_prepared(storage, changed)
    assert contents(fetch_prepared(storage, NAME, tmp_path / "node")) == contents(changed)


def test_without_a_marker_there_is_nothing(storage: Storage, tmp_path: Path) -> None:
    upload_prepared(storage, store(tmp_path / "source"))
    storage.delete([MARKER])
    with pytest.raises(StorageFailed, match=rf"spec.checkpoints.storage={storage.url}: there is no {MARKER}: .*run the preparation again"):
        fetch_prepared(storage, NAME, tmp_path / "node")


@pytest.mark.parametrize("name", ["train.ids.bin", "train.counts.npy", "note.txt", "meta.json"])
def test_an_altered_object_is_refused_by_name(storage: Storage, tmp_path: Path, name: str) -> None:
    upload_prepared(storage, store(tmp_path / "source"))
    key = prepared_key(NAME, name)
    data = storage.get(key)
    storage.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StorageFailed, match=f"{key} is not what was uploaded: cut off or altered; delete {MARKER} there and run the"):
        fetch_prepared(storage, NAME, tmp_path / "node")
    assert list((tmp_path / "node").iterdir()) == []
    # The remedy is one.
    storage.delete([MARKER])
    upload_prepared(storage, tmp_path / "source" / NAME)
    fetch_prepared(storage, NAME, tmp_path / "node")


def test_a_removed_object_is_refused_by_name(storage: Storage, tmp_path: Path) -> None:
    upload_prepared(storage, store(tmp_path / "source"))
    storage.delete([prepared_key(NAME, "note.txt")])
    with pytest.raises(StorageFailed, match=rf"there is no {prepared_key(NAME, 'note.txt')}, which complete.json lists; delete {MARKER}"):
        fetch_prepared(storage, NAME, tmp_path / "node")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "", ".", ".."])
def test_a_marker_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    storage = MemoryStorage()
    upload_prepared(storage, store(tmp_path))
    content = json.loads(storage.objects[MARKER])
    storage.put(MARKER, json.dumps(content | {"files": [*content["files"], {"name": name, "size": 0, "sha256": ""}]}).encode())
    with pytest.raises(StorageFailed, match=f"{MARKER} is damaged"):
        fetch_prepared(storage, NAME, tmp_path / "node")


def test_what_a_killed_process_left_is_never_used(storage: Storage, tmp_path: Path) -> None:
    source = store(tmp_path / "source")
    upload_prepared(storage, source)
    half = tmp_path / "node" / f".{NAME}.1234"
    shutil.copytree(source, half)
    (half / "train.ids.bin").write_bytes(b"half")
    shutil.copytree(half, tmp_path / "node" / NAME)
    assert contents(fetch_prepared(storage, NAME, tmp_path / "node")) == contents(source)
    assert [path.name for path in (tmp_path / "node").iterdir()] == [NAME]


def test_a_fetch_that_broke_off_leaves_nothing(s3: S3Server, tmp_path: Path) -> None:
    prefix = uuid.uuid4().hex
    source = store(tmp_path / "source")
    upload_prepared(s3_storage(s3, prefix=prefix), source)
    with faulty_proxy(s3.endpoint) as proxy:
        proxy.faults.append(Fault(match=r"GET .*train\.ids\.bin", action="refuse", times=1, status=403, code="AccessDenied"))
        with pytest.raises(Exception, match="AccessDenied"):
            fetch_prepared(s3_storage(s3, proxy.endpoint, prefix), NAME, tmp_path / "node")
        assert list((tmp_path / "node").iterdir()) == []
        assert contents(fetch_prepared(s3_storage(s3, proxy.endpoint, prefix), NAME, tmp_path / "node")) == contents(source)


def test_a_folder_without_data_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(StorageFailed, match=r"holds no prepared data \(meta.json is missing\)"):
        upload_prepared(MemoryStorage(), tmp_path / NAME)


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    storage = MemoryStorage()
    upload_prepared(storage, store(tmp_path))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageFailed, match=rf"prepared data can't be written to {tmp_path}/file .*; make room there"):
        fetch_prepared(storage, NAME, tmp_path / "file")
