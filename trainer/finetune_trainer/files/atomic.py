"""Files that appear whole or not at all, and stay after a power cut. Standard library only.

A file is written under another name beside its place, flushed to the disk, and renamed; then the folder's entries are flushed, without
which the rename itself may be lost. Errors are OSErrors: the caller knows which field or option names the place.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

Bytes = bytes | bytearray | memoryview


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all, durably; text as UTF-8. The folder must exist; a file that is there already is replaced."""
    with atomically(path) as draft:
        write_synced(draft, [data.encode("utf-8") if isinstance(data, str) else data])
    sync(path.parent)


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yields a free name beside `path`; the file that the block writes there takes `path`'s place, or vanishes when the block fails.

    What the block writes isn't flushed, nor is the rename: enough for what can be fetched again.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_synced(path: Path, blocks: Iterable[Bytes]) -> None:
    """Write a new file, a block at a time, and flush it to the disk. FileExistsError when there is one of that name."""
    with path.open("xb", buffering=0) as file:
        for block in blocks:
            _write_all(file.fileno(), block)
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durably; nothing where it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries (names that were added, renamed or removed), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush everything below `folder`, then the folder itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def _write_all(descriptor: int, block: Bytes) -> None:
    """Write a block; a short write is followed by another or by the error that explains it."""
    left = memoryview(block)
    while left:
        left = left[os.write(descriptor, left) :]
