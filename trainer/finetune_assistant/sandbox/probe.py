"""Runs inside the sandbox once, before any other program: tries, harmlessly, what must not be possible there, and prints what came of it.

In: the limits, as arguments. Out: a line of JSON that `limits.not_enforced` reads. Every attempt is bounded, and leaves nothing behind
even where it succeeds. Standard library only; it knows nothing of this package.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial

_PR_GET_SECCOMP, _FILTER, _PR_CAPBSET_READ = 21, 2, 23


def main() -> None:
    """Arguments: memory in bytes, number of processes, names that the environment may have."""
    memory_bytes, num_processes, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    prctl = ctypes.CDLL(None).prctl
    disk = os.statvfs("/tmp")
    seen = {
        "socket_refused": {_error(partial(socket.socket, family)) for family in (socket.AF_INET, socket.AF_UNIX)} == {errno.ENETDOWN},
        "filtered": prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) == _FILTER,
        "capabilities": [number for number in range(64) if prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1],
        "parent": os.getppid(),
        "root": os.listdir("/"),
        "write_refused": {_error(partial(os.mkdir, path)) for path in ("/probe", "/usr/probe")} <= {errno.EROFS, errno.EACCES},
        "writable": [path for path in ("/", os.path.dirname(sys.executable), os.path.dirname(os.__file__)) if _is_writable(path)],
        "unexpected_environment": [name for name in os.environ if name not in names],
        # Asks for the addresses only; nothing is written into them.
        "memory_refused": _error(lambda: mmap.mmap(-1, 2 * memory_bytes)) is not None,
        "disk_bytes": disk.f_blocks * disk.f_frsize,
        "num_processes": 1 + _forks(num_processes + 4),
        "cpu_seconds": resource.getrlimit(resource.RLIMIT_CPU)[0],
    }
    print(json.dumps(seen))


def _error(attempt: Callable[[], object]) -> int | None:
    """The number of the error that the attempt ends with, if it does."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None


def _is_writable(path: str) -> bool:
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def _forks(most: int) -> int:
    """How many processes can be started beside each other, up to `most`. Each waits until all have been, and ends."""
    wait, go = os.pipe()
    started: list[int] = []
    try:
        while len(started) < most:
            process = os.fork()
            if process == 0:
                os.close(go)
                os.read(wait, 1)
                os._exit(0)
            started.append(process)
    except BlockingIOError:
        pass
    os.close(go)
    for process in started:
        os.waitpid(process, 0)
    return len(started)


if __name__ == "__main__":
    main()
