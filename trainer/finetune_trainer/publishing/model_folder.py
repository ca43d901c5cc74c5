"""An exported model as a folder: its record, and how a folder is put in place whole or not at all.

`export` makes such folders and `publish` sends them. The record, `finetune_export.json`, lies in the folder and travels with it:
it says which job and step the weights come from and the digest of every file, so that a later publication can tell which files
of a repository are ours. This room knows nothing of models, and nothing of the Hub.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_api.errors import InvalidPublication, RunConflict
from finetune_api.json_text import json_value
from finetune_trainer.files.atomic import sync, sync_tree
from finetune_trainer.files.locks import LockHeld, locked

# Written by `export` into the exported folder; read by `publish` there and in the repository.
RECORD_NAME = "finetune_export.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
_CHUNK_BYTES = 8 << 20
# The Hub keeps files of more than 10 MB in LFS, whatever they are called.
_SMALL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """Size in bytes and sha256 (hex) of a file; of a small one git's blob id too, by which the Hub knows files outside LFS."""

    size: int
    sha256: str
    blob_sha1: str | None = None

    def to_json(self) -> dict[str, object]:
        """What the record holds of it."""
        blob = {} if self.blob_sha1 is None else {"blobSha1": self.blob_sha1}
        return {"size": self.size, "sha256": self.sha256, **blob}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """Where an exported model comes from. `files` maps paths inside the folder to digests; the record itself is not among them.

    `checkpoint`: the digest of the checkpoint's manifest, once the folder is described: a step that is trained again is another one.
    """

    job: str
    identity: str
    step: int
    dtype: str
    files: Mapping[str, FileDigest]
    checkpoint: str | None = None

    def to_json(self) -> str:
        """The text of `finetune_export.json`: the same for the same model, so that publishing twice makes one commit."""
        files = {path: digest.to_json() for path, digest in sorted(self.files.items())}
        source = {"job": self.job, "identity": self.identity, "step": self.step, "dtype": self.dtype}
        checkpoint = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        return json.dumps({"version": 1, **source, **checkpoint, "files": files}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ExportRecord":
        """The inverse of `to_json`; ValueError when it is not such a record."""
        try:
            record = json_value(text)
            files = {str(path): _digest_from_json(file) for path, file in record["files"].items()}
            checkpoint = record.get("checkpoint")
            return cls(
                job=str(record["job"]),
                identity=str(record["identity"]),
                step=int(record["step"]),
                dtype=str(record["dtype"]),
                files=files,
                checkpoint=None if checkpoint is None else str(checkpoint),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an export record: {error!r}") from error


def _digest_from_json(file: dict[str, object]) -> FileDigest:
    blob = file.get("blobSha1")
    return FileDigest(size=int(str(file["size"])), sha256=str(file["sha256"]), blob_sha1=None if blob is None else str(blob))


def is_weights(path: str) -> bool:
    """Whether a file of this name holds, or indexes, a model's weights."""
    return path.endswith(WEIGHT_SUFFIXES) or path.endswith((".safetensors.index.json", ".bin.index.json"))


def digest_of(data: bytes) -> FileDigest:
    """Digest of a small file's content.

    >>> digest_of(b"").blob_sha1
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return FileDigest(size=len(data), sha256=hashlib.sha256(data).hexdigest(), blob_sha1=blob)


def digest_of_file(path: Path) -> FileDigest:
    """Digest of a file, read in chunks."""
    if path.stat().st_size <= _SMALL_BYTES:
        return digest_of(path.read_bytes())
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return FileDigest(size=file.tell(), sha256=digest.hexdigest())


def folder_files(folder: Path) -> list[str]:
    """Paths of the files in `folder`, relative, sorted; hidden ones and the record are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if str(path) != RECORD_NAME and not any(part.startswith(".") for part in path.parts))


def read_exported(folder: Path) -> ExportRecord:
    """The record of an exported folder, as it was written; InvalidPublication when the folder is not one."""
    try:
        return ExportRecord.from_json((folder / RECORD_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidPublication(
            f"{folder} holds no exported model: no readable {RECORD_NAME}; export one with `finetune export`"
        ) from error


def checked_exported(folder: Path) -> ExportRecord:
    """The record with the digests that the files have now. A file that is missing is refused, and so are weights that differ.

    Other files may have been edited or added since, a README for example: they are taken as they are.
    """
    record = read_exported(folder)
    files = {path: digest_of_file(folder / path) for path in folder_files(folder)}
    for path, digest in record.files.items():
        if path not in files or (is_weights(path) and files[path].sha256 != digest.sha256):
            state = "has changed since it was exported" if path in files else "is missing"
            raise InvalidPublication(f"{folder / path} {state}; export the model again with `finetune export`")
    return replace(record, files=files)


@contextmanager
def folder_put_in_place(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`; on success it takes `target`'s place, on failure it vanishes and `target` stays.

    An older folder at `target` is set aside by a rename and deleted only when the new one is there; a kill between the two
    renames leaves it aside, and the next call puts it back. RunConflict when another process is writing there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    with _locked(target):
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        try:
            new.mkdir()
            yield new
            sync_tree(new)
            if target.exists():
                target.rename(old)
            new.rename(target)
            sync(target.parent)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold `target` for this process; the lock goes with the process, however it ends."""
    path = target.with_name(f".{target.name}.lock")
    try:
        with locked(path):
            yield
            path.unlink(missing_ok=True)
    except LockHeld as held:
        raise RunConflict(f"another process is writing {target}, process {held.holder}; wait for it, or choose another folder") from None
