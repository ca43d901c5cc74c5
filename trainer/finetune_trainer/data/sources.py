"""Rows of a data source: files and folders here, objects in S3, data sets of the Hub.

In: a DataSource of the job and a split. Out: `Rows`, which can be gone through again and again and know the identity of their
content. Which files make a split is decided in `splits`, what is inside one in `data_files`; what rows mean, in `dialogues`.
Everything that can't be found or read is InvalidData, naming source, reason and remedy (S3 settings: InvalidStorage).
"""

import difflib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from finetune_api.errors import FineTuneError, InvalidData
from finetune_api.finetunejob import Checkpoints, DataSource
from finetune_api.finetunejob.places import is_address
from finetune_trainer.data.cards import LONGEST_README, README
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.raw_rows import Row, Unreadable
from finetune_trainer.data.splits import ALONE, SUFFIXES, fallback, files_of_split, is_data_file, no_split
from finetune_trainer.secrets import Secrets

if TYPE_CHECKING:
    from finetune_trainer.storage.protocol import Storage

_NAMED_FILES = 10  # in a notice

__all__ = ["Row", "Rows", "Unreadable", "read"]

Notice = Callable[[str], None]
OpenStorage = Callable[[str], "Storage"]
LocalCopy = Callable[[], AbstractContextManager[Path]]  # has the file on the local disk while it is open


class Rows(Protocol):
    """The rows of one split of one source; each iteration reads them from the start."""

    @property
    def split(self) -> str:
        """The split that is read: another than the one asked for when `train` fell back to `train_ift`."""
        ...

    @property
    def commit(self) -> str | None:
        """Of a Hub data set."""
        ...

    def identity(self) -> str:
        """What the content is, for fingerprints: a digest of the files, or name and commit of a Hub data set."""
        ...

    def readme(self) -> str:
        """The text of the README.md beside the data; empty where there is none, or where it can't be had."""
        ...

    def __iter__(self) -> Iterator[Row]: ...


def read(
    source: DataSource,
    split: str,
    *,
    base: Path,
    secrets: Secrets,
    checkpoints: Checkpoints = Checkpoints(),  # noqa: B008  frozen
    open_storage: OpenStorage | None = None,
    field: str = "spec.dataset.sources",
    notice: Notice = lambda text: None,
) -> Rows:
    """The rows of `source`; paths are relative to `base`. Finds the files or the commit now, reads rows when iterated.

    One in object storage is opened with `open_storage(url)`; without it, with its own keys or else those of `checkpoints`, and with their
    endpoint and region. `field` is the source's path in the job, for messages about secrets. `notice` gets a sentence about a fallback.
    """
    if is_address(source.path):
        opener = open_storage or partial(_open_storage, source, secrets=secrets, checkpoints=checkpoints, field=field)
        return _s3_rows(source.path, split, opener, notice)
    if source.path.startswith(("./", "../", "/")) or source.path in (".", ".."):
        return _local_rows(source.path, base / source.path, split, notice)
    _refuse_shadow(source.path, base)
    from finetune_trainer.data.hub import hub_rows

    return hub_rows(source, split, secrets.hub_token(source.token_secret, f"{field}.tokenSecret"), notice)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRows:
    """Rows of files, in the order of their names."""

    name: str
    split: str
    files: tuple[tuple[str, LocalCopy], ...]  # each with its name for messages
    described_by: LocalCopy | None = None  # README.md of a folder
    commit: None = None

    def __iter__(self) -> Iterator[Row]:
        row = None
        for name, local in self.files:
            with local() as path:
                for row in file_rows(path, name):
                    yield row
        if row is None:
            raise InvalidData(f"{self.name}: split {self.split!r} is empty, it holds no row; give data or remove the source")

    def identity(self) -> str:
        """sha256 over the files' suffixes and digests, in the order in which they are read."""
        whole = hashlib.sha256()
        for name, local in self.files:
            with local() as path, _read_errors(name), path.open("rb") as file:
                whole.update(f"{''.join(path.suffixes[-2:])} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return f"sha256:{whole.hexdigest()}"

    def readme(self) -> str:
        """Of a folder or a prefix."""
        if self.described_by is None:
            return ""
        try:
            with self.described_by() as path, path.open(encoding="utf-8", errors="replace") as file:
                return file.read(LONGEST_README)
        except (OSError, FineTuneError):  # it says something of the data, and is none of it
            return ""


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidData(f"{name}: {error.strerror or error}; make it readable for this user") from error


def _local_rows(name: str, path: Path, split: str, notice: Notice) -> Rows:
    with _read_errors(name):
        if not path.exists():
            looked_at = "" if Path(name).is_absolute() else f" (looked at {path.absolute()})"
            raise InvalidData(f"{name}: there is no such file or folder{looked_at}{_similar(path)}")
        if not path.is_dir():
            _check_file(name, split)
            return FileRows(name=name, split=split, files=((name, _in_place(path)),))
        found = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    chosen, paths = _chosen(name, found, split, notice)
    files = tuple((f"{name.rstrip('/')}/{file}", _in_place(path / file)) for file in paths)
    return FileRows(name=name, split=chosen, files=files, described_by=_in_place(path / README) if README in found else None)


def _in_place(path: Path) -> LocalCopy:
    return lambda: nullcontext(path)


def _similar(path: Path) -> str:
    """A hint at a file of nearly this name."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; is it {near[0]}?" if near else "; correct the path"


def _check_file(name: str, split: str) -> None:
    """Refuse a single file of unknown format, or one asked for anything but its only split."""
    if not name.endswith(SUFFIXES):
        raise InvalidData(f"{name}: unknown format; convert it to one of {', '.join(SUFFIXES)}")
    if split != ALONE:
        raise InvalidData(
            f"{name}: a single file has only the split {ALONE!r}, not {split!r}; "
            "put files named after their splits in a folder, or set spec.dataset.evaluation.fraction instead of split"
        )


def _chosen(name: str, found: list[str], split: str, notice: Notice) -> tuple[str, tuple[str, ...]]:
    """The split that is read and its files, out of all files under `name`."""
    data = [file for file in found if is_data_file(file)]
    if not data:
        seen = f"has {len(found)} files, but none" if found else "is empty: no file"
        raise InvalidData(f"{name}: {seen} of a known format; put files there that end in {', '.join(SUFFIXES)}, or correct the path")
    files = files_of_split(data, split)
    if isinstance(files, list):
        raise InvalidData(no_split(name, split, files))
    if files.split != split:
        notice(fallback(name, split, files.split))
    if files.left_out:
        shown = ", ".join(files.left_out[:_NAMED_FILES])
        more = f" and {len(files.left_out) - _NAMED_FILES:,} more" if len(files.left_out) > _NAMED_FILES else ""
        notice(f"{name}: not read, as their names are not those of split {files.split!r}: {shown}{more}; a file can be a source of its own")
    return files.split, files.paths


def _refuse_shadow(name: str, base: Path) -> None:
    """A Hub id that is also a local path: `load_dataset` would silently read the path, another user's machine would not."""
    if (base / name).exists() or Path(name).exists():
        raise InvalidData(f"{name}: a local path of this name exists, and the name means a Hub data set; write ./{name} for the path")
    if name.count("/") > 1 or name.endswith(SUFFIXES):
        raise InvalidData(f"{name}: no Hub id (org/name); for a local path write ./{name}")


def _open_storage(source: DataSource, url: str, *, secrets: Secrets, checkpoints: Checkpoints, field: str) -> "Storage":
    """Storage of a source, with its own keys or those of the checkpoints."""
    from finetune_trainer.storage.errors import StorageFields
    from finetune_trainer.storage.places import open_storage

    own = source.credentials_secret is not None
    keys = f"{field}.credentialsSecret" if own else "spec.checkpoints.credentialsSecret"
    checkpoints = checkpoints.as_for(url)
    return open_storage(
        url,
        endpoint=checkpoints.endpoint,
        region=checkpoints.region,
        credentials=lambda: secrets.storage_credentials(url, source.credentials_secret or checkpoints.credentials_secret, keys),
        ca_bundle=secrets.ca_bundle(checkpoints.ca_bundle, "spec.checkpoints.caBundle"),
        fields=StorageFields(storage=f"{field}.path", credentials=keys),
    )


def _s3_rows(url: str, split: str, open_storage: OpenStorage, notice: Notice) -> Rows:
    """Rows of an object (its key has a known suffix), or of all objects under a prefix; each is fetched when it is read."""
    if url.endswith(SUFFIXES):
        _check_file(url, split)
        parent, _, key = url.rpartition("/")
        storage = open_storage(parent)
        with _first_contact(storage):
            if not storage.exists(key):
                raise InvalidData(f"{url}: there is no such object; check bucket and key")
        return FileRows(name=url, split=split, files=((url, partial(_fetched, storage, key)),))
    storage = open_storage(url)
    with _first_contact(storage):
        found = [key for key, _ in storage.list()]
    chosen, keys = _chosen(url, found, split, notice)
    files = tuple((f"{url.rstrip('/')}/{key}", partial(_fetched, storage, key)) for key in keys)
    return FileRows(name=url, split=chosen, files=files, described_by=partial(_fetched, storage, README) if README in found else None)


@contextmanager
def _first_contact(storage: "Storage") -> Iterator[None]:
    """An endpoint that never answered is a wrong setting, InvalidStorage, not storage that gave up in the middle."""
    from finetune_trainer.storage.errors import Unreachable, first_contact

    try:
        yield
    except Unreachable as error:
        raise first_contact(storage.place, error) from error


@contextmanager
def _fetched(storage: "Storage", key: str) -> Iterator[Path]:
    """A local copy of an object while it is read; one at a time is on the disk."""
    with TemporaryDirectory(prefix="finetune-") as folder:
        path = Path(folder, key.rpartition("/")[2])
        storage.get_file(key, path)
        yield path
