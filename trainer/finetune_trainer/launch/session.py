"""Processes of one training on this machine, in a folder of theirs, of which nothing is left however the driver ends.

A driver that is killed with SIGKILL can't end what it started. So a watchdog of ours holds the reading end of a pipe; when the pipe
closes, it ends every process of the session, by id, and removes the session's folder. It knows them by the session's mark in their
environment, and by the files in that folder that they write: Ray's agents overwrite their environment with a title, and ranks that are
forked have the environment of who forked them. And it tells of an end that nobody else can tell of: Ray, too, ends its driver without a
word when the raylet is gone. It needs /proc.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_trainer.launch.bounded import any_left

# Set by this file for the session's processes, read by the watchdog alone.
MARK_ENV = "FINETUNE_SESSION"

# What the names of sessions' folders begin with.
PREFIX = "finetune-ranks-"

# Runs with the standard library alone: it must start in milliseconds and outlive everything. argv: mark, folder, who may end a driver.
_WATCHDOG = """
import os, shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
mark, folder, driver = sys.argv[1].encode(), sys.argv[2] + "/", os.getppid()
is_told = bool(sys.stdin.buffer.read())
def target(link):
    try:
        return os.readlink(link)
    except OSError:
        return ""
def ours(pid):
    try:
        if mark in open(f"/proc/{pid}/environ", "rb").read().split(b"\\0"):
            return True
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(target(f"/proc/{pid}/fd/{file}").startswith(folder) for file in files)
def living():
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in pids if pid not in (os.getpid(), driver) and ours(pid)]
for _ in range(50):
    pids = living()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if not pids:
        break
    time.sleep(0.1)
shutil.rmtree(folder, ignore_errors=True)
if not is_told:
    try:
        told = f"this process was ended from outside{sys.argv[3]}; the same command goes on from the newest checkpoint"
        print(f"error: {told}", file=sys.stderr)
    except OSError:
        pass
"""

# Watchdogs whose pipes are to stay open until this process ends.
_ACTING_LATER: "list[subprocess.Popen[bytes]]" = []


@contextmanager
def session(folder: str, *, or_by: str = "") -> Iterator[None]:
    """A watchdog over `folder`, which exists, and over processes that begin in the block. `or_by`: what else may end a driver silently."""
    mark = f"{MARK_ENV}={uuid.uuid4().hex}"
    command = [sys.executable, "-I", "-S", "-c", _WATCHDOG, mark, folder, or_by]
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    os.environ[MARK_ENV] = mark.partition("=")[2]
    try:
        yield
    finally:
        os.environ.pop(MARK_ENV, None)
        assert watchdog.stdin is not None
        with suppress(OSError):  # somebody killed it
            watchdog.stdin.write(b"this process tells how it ends")
            watchdog.stdin.flush()
        if any_left():  # without a raylet this process would end at once, and has to tell why first: the watchdog acts when it has ended
            _ACTING_LATER.append(watchdog)
        else:
            with suppress(OSError):
                watchdog.stdin.close()
            watchdog.wait()
            shutil.rmtree(folder, ignore_errors=True)


def keep_logs(folder: str, logs: Path) -> None:
    """Copy what the session's processes wrote, for whoever looks why it failed."""
    with suppress(OSError):  # the disk may be full, or nothing was written yet: neither may hide what happened
        shutil.copytree(folder, logs, dirs_exist_ok=True, ignore_dangling_symlinks=True)
