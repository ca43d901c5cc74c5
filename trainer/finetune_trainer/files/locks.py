"""Locks on files, one holder at a time, that the kernel lets go of however their process ends; and folders that go with their users.

A lock's file stays after use: it holds the process id of whoever has, or had, the lock. Errors are OSErrors: the caller knows which field
or option names the place.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def folder_in_use(path: Path) -> Iterator[os.stat_result]:
    """A folder of this user alone, made where it isn't, that `remove_unused` leaves alone until all who use it have ended the block."""
    descriptor = None
    while descriptor is None:
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = _marked(path)
    try:
        yield os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _marked(path: Path) -> int | None:
    """A descriptor that marks the folder as in use; None where somebody removed it meanwhile."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return None
    try:
        _share(descriptor)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return os.dup(descriptor)
    except FileNotFoundError:
        return None
    finally:
        os.close(descriptor)
    return None


def remove_unused(folders: Iterable[Path]) -> None:
    """Remove those of `folders` that are this user's and in nobody's use; what can't be told or removed stays."""
    for folder in folders:
        with suppress(OSError):
            descriptor = _opened(folder)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _share(descriptor: int) -> None:
    """Nothing where the file system has no locks: there nobody can lock it alone, either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


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
