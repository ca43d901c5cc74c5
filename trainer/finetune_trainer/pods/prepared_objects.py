"""Prepared data as objects of the job's storage: written by the preparation, read by every node that trains.

    prepared/<fingerprint>/<file>           the files of a store, as `finetune_trainer.preparation.store` lists them
    prepared/<fingerprint>/complete.json    size and SHA-256 of each; written last, so that without it there is nothing

What the files mean is not known here. They are no run's own (`claims`): runs that differ in nothing that shapes rows share them.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import StorageFailed
from finetune_trainer.preparation.store import META, read_meta, store_folder
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.protocol import Storage

COMPLETE: Final = "complete.json"
_FORMAT: Final = 1
# What reading a complete.json raises that this program did not write.
_NOT_OURS: Final = (ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a store, as complete.json lists it."""

    name: str
    size: int
    sha256: str


def prepared_key(fingerprint: str, name: str) -> str:
    """The object of one file."""
    return f"prepared/{fingerprint}/{name}"


def upload_prepared(storage: Storage, folder: Path) -> None:
    """Write the store in `folder`, which is named by its fingerprint; nothing when all of it is there already.

    Reads every file to the end. Raises StorageFailed when the folder holds no store, or one that was altered.
    """
    files, marker = _files(folder), prepared_key(folder.name, COMPLETE)
    uploaded = _uploaded(storage, folder.name)
    if uploaded is not None and set(uploaded[0]) == set(files):
        return
    storage.delete([marker])  # it would vouch for a mixture of old and new objects meanwhile
    for file in files:
        storage.put_file(prepared_key(folder.name, file.name), folder / file.name)
    storage.put(marker, json.dumps({"format": _FORMAT, "files": [asdict(file) for file in files]}, indent=1).encode())


def fetch_prepared(storage: Storage, fingerprint: str, target: Path) -> Path:
    """The store's folder `<target>/<fingerprint>`, fetched unless it is there; it appears whole and verified, or not at all.

    One process at a time: what another one left unfinished is removed. Raises StorageFailed.
    """
    folder = store_folder(target, fingerprint)
    if _is_whole(folder):
        return folder
    files = _listed(storage, fingerprint)
    draft = target / f".{fingerprint}.{os.getpid()}"
    try:
        for left in (folder, *target.glob(f".{fingerprint}.*")):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        for file in files:
            _fetch(storage, fingerprint, file, draft)
        draft.rename(folder)
    except OSError as error:
        raise StorageFailed(f"prepared data can't be written to {target} ({error}); make room there, or choose another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def uploaded_meta(storage: Storage, fingerprint: str) -> dict[str, Any] | None:
    """meta.json of a store that was uploaded to the end, its objects as long as they were; None without one. Reads small objects only."""
    uploaded = _uploaded(storage, fingerprint)
    if uploaded is None:
        return None
    meta: dict[str, Any] = json.loads(uploaded[1])
    return meta


def _files(folder: Path) -> tuple[_File, ...]:
    """The files of a store with their digests, after a look at every byte."""
    meta = read_meta(folder)
    if meta is None:
        raise StorageFailed(f"{folder} holds no prepared data ({META} is missing); run the preparation again")
    listed = [_File(name, written["bytes"], written["sha256"]) for name, written in meta["files"].items()]
    return (*listed, _File(META, *_measured(folder / META)))


def _uploaded(storage: Storage, fingerprint: str) -> tuple[tuple[_File, ...], bytes] | None:
    """What complete.json lists, and meta.json; None unless that is what was written, and objects of the others' sizes are there."""
    try:
        files = _parsed(storage.get(prepared_key(fingerprint, COMPLETE)))
        meta = storage.get(prepared_key(fingerprint, META))
    except (MissingObject, *_NOT_OURS):
        return None
    sizes = dict(storage.list(prepared_key(fingerprint, "")))
    whole = all(sizes.get(prepared_key(fingerprint, file.name)) == file.size for file in files)
    written = _File(META, len(meta), hashlib.sha256(meta).hexdigest())
    return (files, meta) if whole and written in files else None


def _is_whole(folder: Path) -> bool:
    """Whether a store is there, every file as long as it was written."""
    try:
        return read_meta(folder, verify_digests=False) is not None
    except StorageFailed:
        return False


def _listed(storage: Storage, fingerprint: str) -> tuple[_File, ...]:
    """What complete.json lists. Raises StorageFailed when it is not there, or is something else."""
    key = prepared_key(fingerprint, COMPLETE)
    try:
        return _parsed(storage.get(key))
    except MissingObject:
        why = f"there is no {key}: prepared data was never uploaded to the end, or somebody removed it; run the preparation again"
    except _NOT_OURS:
        why = f"{key} is damaged; {_remedy(fingerprint)}"
    raise StorageFailed(f"{_where(storage)}: {why}")


def _parsed(text: bytes) -> tuple[_File, ...]:
    """The files of a complete.json. Raises one of _NOT_OURS."""
    content = json.loads(text)
    files = tuple(_File(str(one["name"]), int(one["size"]), str(one["sha256"])) for one in content["files"])
    names = {file.name for file in files}
    # Names become paths on a node.
    if content["format"] != _FORMAT or META not in names or any(name in {"", ".", ".."} or "/" in name for name in names):
        raise ValueError("not a list of files that this program wrote")
    return files


def _fetch(storage: Storage, fingerprint: str, file: _File, folder: Path) -> None:
    """One file, verified. Raises StorageFailed."""
    key = prepared_key(fingerprint, file.name)
    try:
        storage.get_file(key, folder / file.name)
    except MissingObject:
        raise StorageFailed(f"{_where(storage)}: there is no {key}, which {COMPLETE} lists; {_remedy(fingerprint)}") from None
    if _measured(folder / file.name) != (file.size, file.sha256):
        raise StorageFailed(f"{_where(storage)}: {key} is not what was uploaded: cut off or altered; {_remedy(fingerprint)}")


def _remedy(fingerprint: str) -> str:
    """With complete.json in place the preparation would take its data for uploaded."""
    return f"delete {prepared_key(fingerprint, COMPLETE)} there and run the preparation again"


def _where(storage: Storage) -> str:
    return f"{storage.place.fields.storage}={storage.url}"


def _measured(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 (hex)."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
