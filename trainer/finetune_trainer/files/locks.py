"""Locks on files, one holder at a time, that the kernel lets go of however their process ends.

A lock's file stays after use: it holds the process id of whoever has, or had, the lock. Errors are OSErrors: the caller knows which field
or option names the place.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# Errors of file systems without the kernel's locks.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


class LockHeld(Exception):
    """Another process, or another place of this one, has the lock; `holder` is its process id, or "unknown"."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made where it isn't. Raises LockHeld at once when it is held."""
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LockHeld(_holder(path)) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_in_turn(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made where it isn't, after whoever holds it."""
    with _lock(path):
        yield


def _lock(path: Path) -> FileLock:
    # filelock 4 takes a folder in which no file can be made for a lock that is held.
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
    # Without the kernel's locks filelock would go by a file that exists: such a lock outlives a process that is killed.
    return FileLock(path, fallback_to_soft=False, on_acquired=_sign)


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()[:32] or "unknown"
    except OSError:
        return "unknown"
