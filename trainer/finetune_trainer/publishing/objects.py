"""Publication to object storage: an exported folder becomes objects under one prefix, read back and compared.

A prefix has no rename, so the order tells what is whole: before anything changes `config.json` goes, without which no program loads a
folder, and it comes back when every other file has arrived and was compared; the export's record comes last. `finetune_publication.json`
says whose prefix it is and which files there are ours, and is there before the first of them: what an attempt left that was cut off is
known to the next one. Files of others are never touched. Whether a model is good enough to be published is the caller's question.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_trainer.publishing.changes import Publication
from finetune_trainer.publishing.model_folder import RECORD_NAME, FileDigest, checked_exported, digest_of
from finetune_trainer.storage.errors import MissingObject
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.streams import PART_BYTES, in_order

MARK = "finetune_publication.json"
CONFIG = "config.json"
_PARALLEL = 4  # ranges in flight while a file is read back


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """Whose prefix it is, and the files that this job's publications have sent there, whole or not."""

    job: str
    files: frozenset[str]

    def to_bytes(self) -> bytes:
        return (json.dumps({"version": 1, "job": self.job, "files": sorted(self.files)}, indent=2) + "\n").encode()


def check_prefix(storage: Storage, job: str) -> None:
    """Refuse with InvalidPublication a prefix that holds something else than this job's model. Takes nothing."""
    mark = _mark(storage)
    if mark is not None and mark.job != job:
        raise InvalidPublication(f"{_where(storage)} holds the model of job {mark.job}, not of {job}; choose another prefix")
    if mark is None:
        foreign = [key for key, _ in storage.list() if not key.startswith(".finetune-")]
        if foreign:
            raise InvalidPublication(
                f"{_where(storage)} holds {len(foreign)} objects that no publication of ours wrote, such as {foreign[0]}; "
                "choose an empty prefix, or delete what is there"
            )


def publish_to_storage(folder: Path, storage: Storage, *, progress: Callable[[int, int], None] = lambda _sent, _total: None) -> Publication:
    """Publish an exported folder under the storage's prefix. Files that are there already, byte by byte, are not sent again.

    `progress` gets (bytes that arrived, of how many). Raises InvalidPublication for a prefix of something else, and the storage's errors.
    """
    record = checked_exported(folder)
    check_prefix(storage, record.job)
    text = record.to_json().encode()
    done = Publication(repository=storage.url, revision=hashlib.sha256(text).hexdigest(), url=storage.url, sent=(), sent_bytes=0)
    sizes = dict(storage.list())
    if _holds(storage, text, record.files, sizes):
        return done
    earlier = _own(storage, record.job, record.files)
    storage.delete([CONFIG])
    obsolete = sorted(earlier - record.files.keys())
    storage.delete(obsolete)
    sent = _send(folder, storage, record.files, progress)
    storage.put(RECORD_NAME, text)
    _compare(storage, RECORD_NAME, digest_of(text))
    storage.put(MARK, _Mark(job=record.job, files=frozenset(record.files)).to_bytes())
    return Publication(
        repository=done.repository,
        revision=done.revision,
        url=done.url,
        sent=tuple(sent),
        sent_bytes=sum(record.files[path].size for path in sent),
        deleted=tuple(obsolete),
        created=not earlier,
    )


def _holds(storage: Storage, record: bytes, files: Mapping[str, FileDigest], sizes: Mapping[str, int]) -> bool:
    """Whether this very model was published there to the end, and every file is as long as it was then."""
    if any(sizes.get(path) != digest.size for path, digest in files.items()):
        return False
    try:
        return storage.get(RECORD_NAME) == record
    except MissingObject:
        return False


def _own(storage: Storage, job: str, files: Mapping[str, FileDigest]) -> frozenset[str]:
    """Make the prefix this job's, with what is about to be sent; the files that earlier publications sent. Raises InvalidPublication."""
    first = _Mark(job=job, files=frozenset(files))
    if storage.put_if_absent(MARK, first.to_bytes()):
        return frozenset()
    check_prefix(storage, job)  # of two jobs that begin at once, one has it
    mark = _mark(storage)
    earlier = mark.files if mark is not None else frozenset()
    storage.put(MARK, _Mark(job=job, files=first.files | earlier).to_bytes())
    return earlier


def _send(folder: Path, storage: Storage, files: Mapping[str, FileDigest], progress: Callable[[int, int], None]) -> list[str]:
    """Send what isn't there yet, file by file, `config.json` last, and compare each; the paths that were sent."""
    sizes = dict(storage.list())
    total, arrived, sent = sum(digest.size for digest in files.values()), 0, []
    for path, digest in sorted(files.items(), key=lambda file: (file[0] == CONFIG, file[0])):
        if sizes.get(path) != digest.size or _digest(storage, path, digest.size) != digest.sha256:
            storage.put_file(path, folder / path)
            _compare(storage, path, digest)
            sent.append(path)
        arrived += digest.size
        progress(arrived, total)
    return sent


def _compare(storage: Storage, path: str, digest: FileDigest) -> None:
    if _digest(storage, path, digest.size + 1) != digest.sha256:  # one more than there should be: a longer object is another one
        raise PublicationFailed(
            f"{_where(storage)}: {path} is not what was sent; does somebody else write there? The exported model is kept, publish again"
        )


def _digest(storage: Storage, path: str, size: int) -> str:
    """SHA-256 (hex) of an object's first `size` bytes, read a few ranges at a time."""
    digest = hashlib.sha256()
    starts = range(0, max(size, 1), PART_BYTES)
    for block in in_order(lambda start: storage.get(path, start, min(start + PART_BYTES, size)), starts, _PARALLEL):
        digest.update(block)
    return digest.hexdigest()


def _mark(storage: Storage) -> _Mark | None:
    """The prefix's mark; None without one. Raises InvalidPublication for a file of that name that is none."""
    try:
        found = json.loads(storage.get(MARK))
        return _Mark(job=str(found["job"]), files=frozenset(map(str, found["files"])))
    except MissingObject:
        return None
    except (ValueError, KeyError, TypeError):
        raise InvalidPublication(f"{_where(storage)}: {MARK} is damaged; delete the objects there, or choose another prefix") from None


def _where(storage: Storage) -> str:
    return f"{storage.place.fields.storage}={storage.url}"
