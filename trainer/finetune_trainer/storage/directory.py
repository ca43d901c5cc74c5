"""Objects as files under a directory: a laptop's disk or a shared volume.

A file is written beside its place, synced and renamed, so that it appears whole or not at all, also after a power cut. The folder
`.finetune-incomplete` holds what is being written and is no part of the listing.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from finetune_trainer.files.atomic import Bytes, atomically, make_folder, sync, write_synced
from finetune_trainer.storage.errors import Place, StorageFields, directory_error, replaced

Listing = list[tuple[str, int]]  # (key, size in bytes), sorted by key
Versions = list[tuple[str, int, str]]  # (key, size in bytes, version), sorted by key

INCOMPLETE = ".finetune-incomplete"
_COPY_BYTES = 8 * 2**20
# Errors of file systems without hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class DirectoryStorage:
    """A Storage in a directory, which is made with the first write."""

    def __init__(self, root: Path, *, fields: StorageFields | None = None) -> None:
        self._root = root
        self.place = Place(url=str(root), fields=fields or StorageFields())

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, key: str, data: Bytes) -> None:
        self.put_stream(key, [data])

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self.put_stream(key, iter(lambda: source.read(_COPY_BYTES), b""))

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        target = self._path(key)
        with self._errors(f"writing {key}"), self._written(blocks) as temporary:
            size = temporary.stat().st_size
            self._rename(temporary, target)
        return size

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        target = self._path(key)
        with self._errors(f"creating {key}"), self._written([data]) as temporary:
            make_folder(target.parent)
            try:
                _create(temporary, target)
            except FileExistsError:
                return target.read_bytes() == data
            sync(target.parent)
        return True

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._errors(f"reading {key}"), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else max(0, stop - start))

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        with self._errors(f"reading {key} to {path}"), atomically(path) as draft:
            shutil.copyfile(self._path(key), draft)
            if version is not None and _version(self._path(key).stat()) != version:
                raise replaced(self.place, key)

    def exists(self, key: str) -> bool:
        with self._errors(f"looking for {key}"):
            return self._path(key).is_file()

    def list(self, prefix: str = "") -> Listing:
        with self._errors(f"listing {prefix or 'everything'}"):
            return sorted((key, status.st_size) for key, status in self._files(prefix) if key.startswith(prefix))

    def versions(self, prefix: str = "") -> Versions:
        with self._errors(f"listing {prefix or 'everything'}"):
            found = sorted((key, status) for key, status in self._files(prefix) if key.startswith(prefix))
            return [(key, status.st_size, _version(status)) for key, status in found]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._errors(f"deleting {key}"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that is not empty stays
                for folder in path.parents[: key.count("/")]:
                    folder.rmdir()

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        """The folder is ours, whatever the keys: no other program writes there."""
        with self._errors("removing incomplete files"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / INCOMPLETE)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        assert all(part not in {"", ".", "..", INCOMPLETE} for part in parts), key
        return self._root.joinpath(*parts)

    def _files(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Every file with its status, below the folder that `prefix` names the beginning of."""
        top = self._root / prefix.rpartition("/")[0]
        for folder, folders, names in os.walk(top, onerror=_raise_unless_missing):
            folders[:] = [name for name in folders if name != INCOMPLETE]
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    yield path.relative_to(self._root).as_posix(), path.stat()

    @contextlib.contextmanager
    def _written(self, blocks: Iterable[Bytes]) -> Iterator[Path]:
        """A synced file that holds `blocks`, gone at the end unless it was renamed."""
        temporary = self._root / INCOMPLETE / uuid.uuid4().hex
        make_folder(temporary.parent)
        try:
            write_synced(temporary, blocks)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _rename(self, temporary: Path, target: Path) -> None:
        """Put a written file in its place, although another process may be removing empty folders."""
        for attempts_left in (2, 1, 0):
            make_folder(target.parent)
            try:
                temporary.replace(target)
                return sync(target.parent)
            except FileNotFoundError:
                if not attempts_left:
                    raise

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn an OSError into one that names the directory, the field and the remedy."""
        try:
            yield
        except OSError as error:
            raise directory_error(self.place, doing, error) from error


def _version(status: os.stat_result) -> str:
    """Another one after each write, since a file is made anew: no digest, which would need to read it."""
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}"


def _create(temporary: Path, target: Path) -> None:
    """Give a written file a second name. Raises FileExistsError if that name is taken, also by a file that is made at this moment."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        write_synced(target, [temporary.read_bytes()])  # exclusive as well, but a crash here leaves an empty file


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
