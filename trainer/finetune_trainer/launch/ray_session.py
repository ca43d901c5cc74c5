"""Ray on this machine for the length of one run, on loopback, leaving nothing behind however the run ends: `run --dashboard`.

`ray.init` starts half a dozen processes. When the process that called it is killed with SIGKILL, Ray's agents and now and
then a worker live on (seen with Ray 2.60); the session's watchdog ends them (`session`).
"""

import atexit
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Final

from finetune_api.errors import TrainingFailed
from finetune_trainer.launch.bounded import any_left, within
from finetune_trainer.launch.session import PREFIX, keep_logs, session

# Ray needs about a second.
_SHUTDOWN_SECONDS: Final = 30.0

# How long Ray's own processes may take to come up. Ray gives up after 30 s, which a busy machine exceeds; then the start is tried anew.
START_SECONDS = (30.0, 300.0)


@contextmanager
def local_ray(
    *, num_cpus: int, num_gpus: int, dashboard: bool, logs: Path, start_seconds: Sequence[float] = START_SECONDS
) -> Iterator[str]:
    """A Ray of our own with that many CPUs and GPUs to schedule; gives the dashboard's address and token, or an empty string.

    When the block ends with an error, what the processes wrote is copied to the folder `logs`. A start that takes longer than the first of
    `start_seconds` is tried again with the next; raises TrainingFailed after the last, or when Ray can't start at all.
    """
    # A token of this session's own: Ray would keep one in the user's home, and say so at each start.
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex})
    with ExitStack() as started:
        for seconds in start_seconds:
            try:
                address = started.enter_context(_session(num_cpus, num_gpus, dashboard=dashboard, logs=logs, seconds=seconds))
                break
            except _StartedTooSlowly as slow:
                failure = slow
        else:
            raise TrainingFailed(
                f"Ray's processes did not start within {start_seconds[-1]:.0f} s ({failure}); the machine is busy or short of memory: "
                f"free some, then run the same command again; what Ray wrote is in {logs}"
            ) from failure
        yield address


class _StartedTooSlowly(Exception):
    """Ray's processes were not up in time."""


@contextmanager
def _session(num_cpus: int, num_gpus: int, *, dashboard: bool, logs: Path, seconds: float) -> Iterator[str]:
    """One start of Ray, in a folder of its own, which a watchdog clears away however it ends."""
    folder = _short_folder(dashboard=dashboard)
    # Read when ray is imported: the first keeps V2 on, the second lets the dashboard's API tell of the run (docs/dashboard.md).
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1" if dashboard else "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Nobody preempts this machine; the watcher would cost a process that imports all of Ray Train.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # All of the machine is ours, so workers that have not started yet are slow, not without a place; Ray would give up after 60 s.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")
    # Ray's metrics exporter has nobody to export to here, and its agent logs errors about that.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    # Workers stay in this folder: relative paths, such as that of $FINETUNE_SECRETS, mean the same to them.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    # Ray prints other processes' misfortunes to stdout, in the middle of our lines (its option log_to_driver doesn't cover them).
    with (
        session(folder, or_by=", or by Ray, whose raylet died (killed, or out of memory)"),
        open(f"{folder}/printed.log", "w", encoding="utf-8") as printed,
        redirect_stdout(printed),
    ):
        yield from _running(folder, num_cpus=num_cpus, num_gpus=num_gpus, dashboard=dashboard, logs=logs, seconds=seconds)


def _running(folder: str, *, num_cpus: int, num_gpus: int, dashboard: bool, logs: Path, seconds: float) -> Iterator[str]:
    import ray

    try:
        with _own_sigterm(), _waiting(seconds):
            context = ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        # Nobody else is told the token: without it the page stays closed.
        yield f"http://{context.dashboard_url}, which asks for the token {os.environ['RAY_AUTH_TOKEN']}" if context.dashboard_url else ""
    except Exception:
        keep_logs(f"{folder}/session_latest/logs", logs)
        raise
    finally:
        if not shut_down():
            leave_without_ray(1)


def shut_down(seconds: float = _SHUTDOWN_SECONDS) -> bool:
    """End this process's part of Ray; False when that takes longer, as it may for ever where Ray's head or raylet hangs.

    Also False, and nothing is done, where a call to Ray was given up and is still there: Ray would end this process before it has told why.
    """
    import ray

    if any_left():
        return False

    def ends() -> bool:
        ray.shutdown()
        return True

    return within(seconds, ends, otherwise=False)


def leave_without_ray(code: int) -> None:
    """When Python ends, end this process before Ray waits once more: what is asked for at the end last is done first."""

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    atexit.register(leave)


# Ray's limit for its first process.
_GCS_WAIT_ENV = "RAY_gcs_server_port_wait_time_s"
# The longest name of a socket in a session's folder (Ray 2.60), without and with the dashboard's own processes.
_LONGEST_SOCKET = {False: "plasma_store.1", True: "dash_TaskEventsHead.1"}
# What the kernel takes for the whole path of a socket.
_SOCKET_BYTES = 107


def _short_folder(*, dashboard: bool) -> str:
    """A new folder for Ray, short enough for the sockets that it makes there: a run folder, or a batch system's TMPDIR, may be too long."""
    session = f"/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/{_LONGEST_SOCKET[dashboard]}"
    longest = _SOCKET_BYTES - len(session) - len(f"/{PREFIX}12345678")
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(base)) <= longest:
            with suppress(OSError):  # the next one may be writable
                return tempfile.mkdtemp(prefix=PREFIX, dir=base)
    raise TrainingFailed(
        f"no folder for Ray's sockets: TMPDIR is {tempfile.gettempdir()}, which must have at most {longest} characters, and neither /tmp, "
        "/var/tmp nor /dev/shm can be written; set TMPDIR to a shorter folder"
    )


@contextmanager
def _waiting(seconds: float) -> Iterator[None]:
    """Let `ray.init` wait so long for its processes. Raises _StartedTooSlowly.

    Ray's own limit for the raylet is a number in the middle of a function (ray/_private/node.py of 2.60), where it asks `get_node` until
    the raylet is known; so `get_node` asks for as long as we want. That of its GCS is an environment variable.
    """
    from ray._private import services

    asked, deadline = services.get_node, time.monotonic() + seconds

    def get_node(gcs_address: str, node_id: str) -> object:
        while True:
            try:
                return asked(gcs_address, node_id)
            except RuntimeError as error:
                if time.monotonic() >= deadline:
                    raise _StartedTooSlowly(f"no raylet after {seconds:.0f} s") from error
                time.sleep(0.2)

    services.get_node = get_node
    os.environ[_GCS_WAIT_ENV] = str(max(1, round(seconds)))
    try:
        yield
    except _StartedTooSlowly:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "timed out" in line.lower() or "timeout" in line.lower() or time.monotonic() >= deadline:
            raise _StartedTooSlowly(line) from error
        raise TrainingFailed(f"Ray did not start: {line}; correct that, then run the same command again") from error
    finally:
        services.get_node = asked
        os.environ.pop(_GCS_WAIT_ENV, None)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's SIGTERM handler, which `ray.init` replaces, and let the processes that it starts be born deaf to SIGTERM.

    They share our process group, and a SIGTERM to the group (`timeout`, a shell's `kill %1`) asks us for a checkpoint first.
    """
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
