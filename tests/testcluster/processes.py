"""Servers as recorded processes: started in a session of their own, one log and one record each, stopped by that record.

A record is the process id together with the process's start time from /proc, so that a process that got the id of one that ended
is never signalled. Records are files: a later Python process stops what an earlier one has started. Linux only; knows no Kubernetes.
"""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
# Below Linux's range for outgoing connections (32768 and up) and Kubernetes' node ports (30000 and up): a server that is
# stopped finds its port free when it starts again.
_PORTS = range(20000, 30000)
_KILLED_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")  # util-linux: SIGKILL when the thread that starts it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One started server. `ticks` is its start time in clock ticks since the boot `boot`: with the pid, its identity.

    `stop_seconds`: how long it may take to end when asked to, before it is killed.
    """

    name: str
    pid: int
    ticks: int
    boot: str
    log: str
    stop_seconds: float = STOP_SECONDS

    def is_running(self) -> bool:
        """False as well where another process has got the id, and for one that only waits for its parent to notice."""
        stat = _stat(self.pid)
        return stat is not None and self._is(stat) and not stat.ended

    def reap(self) -> None:
        """Once it has ended: let the kernel forget it, if it is a child of ours; what another Python process started is init's."""
        stat = _stat(self.pid)
        if stat is not None and self._is(stat):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def _is(self, stat: "_Stat") -> bool:
        return self.boot == _boot() and stat.ticks == self.ticks


class ProcessFailed(RuntimeError):
    """A server that ended or was not ready in time; the message has the end of its log."""


class Processes:
    """The processes whose records lie in `folder`, in the order in which they were started."""

    def __init__(self, folder: Path, *, outlive: bool = False) -> None:
        """`outlive`: they go on when this Python process ends. Otherwise they are killed with it, whatever ends it.

        Without `outlive`, start them in a thread that lasts (Linux takes the end of the thread for the end of the parent).
        """
        self.folder = folder
        self._outlive = outlive
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> Process:
        """Run `argv` and record it as `name`. `env` is the whole environment.

        Its output is appended to `log` (absent: NAME.log in the folder).
        """
        if self.is_running(name):
            raise ProcessFailed(f"{name} is already running as process {self._read(name).pid}; stop it first")
        log = (log or self.folder / f"{name}.log").absolute()
        command = [*([] if self._outlive else _KILLED_WITH_US), _program(str(argv[0])), *map(str, argv[1:])]
        environment = dict(os.environ if env is None else env)
        pid = os.posix_spawn(_program(command[0]), command, environment, file_actions=_files(log), setsid=True)
        stat = _stat(pid)
        assert stat is not None  # at least a child that nobody has waited for
        process = Process(name=name, pid=pid, ticks=stat.ticks, boot=_boot(), log=str(log), stop_seconds=stop_seconds)
        unfinished = self.folder / f"{name}.json.new"
        unfinished.write_text(json.dumps(asdict(process)))
        unfinished.replace(self._record(name))
        return process

    def recorded(self) -> list[Process]:
        """Oldest first, those that have ended included."""
        found = [Process(**json.loads(path.read_text())) for path in self.folder.glob("*.json")]
        return sorted(found, key=lambda process: (process.ticks, process.pid))

    def running(self) -> list[Process]:
        """Oldest first."""
        return [process for process in self.recorded() if process.is_running()]

    def is_running(self, name: str) -> bool:
        """Whether the process recorded as `name` runs."""
        return self._record(name).exists() and self._read(name).is_running()

    def stop(self, name: str, *, grace_seconds: float = math.inf) -> None:
        """Ask it to end, kill it after its `stop_seconds` or `grace_seconds`, wait until it is gone.

        Nothing happens where it does not run.
        """
        if not self._record(name).exists():
            return
        process = self._read(name)
        _signal(process, signal.SIGTERM)
        if not _gone_within(process, min(process.stop_seconds, grace_seconds)):
            self.kill(name)
        process.reap()
        self._record(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End it without warning, as a lost machine would, and wait until it is gone."""
        process = self._read(name)
        _signal(process, signal.SIGKILL)
        if not _gone_within(process, STOP_SECONDS):
            raise ProcessFailed(f"{name} (process {process.pid}) does not end after SIGKILL")
        process.reap()
        self._record(name).unlink(missing_ok=True)

    def stop_all(self, *, grace_seconds: float = math.inf) -> None:
        """Stop every recorded process, the last started first. One that cannot be stopped does not keep the others running."""
        failures = []
        for process in reversed(self.recorded()):
            try:
                self.stop(process.name, grace_seconds=grace_seconds)
            except (ProcessFailed, OSError) as error:
                failures.append(str(error))
        if failures:
            raise ProcessFailed("; ".join(failures))

    def wait_until(self, name: str, ready: Callable[[], bool], *, seconds: float, what: str = "ready") -> None:
        """Return once `ready()`; raise ProcessFailed if the process `name` ends before, or after `seconds`."""
        process = self._read(name)
        deadline = time.monotonic() + seconds
        while not ready():
            if not process.is_running():
                raise ProcessFailed(f"{name} ended before it was {what}; the end of {process.log}:\n{log_tail(Path(process.log))}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{name} is not {what} after {seconds:.0f} s; the end of {process.log}:\n{log_tail(Path(process.log))}")
            time.sleep(_POLL_SECONDS)

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> Process:
        return Process(**json.loads(self._record(name).read_text()))


def log_tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, for messages."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Different TCP ports that are free on `address` now."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.Random().sample(_PORTS, len(_PORTS)):
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind((address, port))
                found.append(port)
            if len(found) == count:
                return found
    raise ProcessFailed(
        f"fewer than {count} ports of {_PORTS.start}-{_PORTS.stop - 1} are free on {address}; does this machine have the address?"
    )


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ProcessFailed(f"the program {name} is not installed or not executable")
    return found


def _files(log: Path) -> list[tuple[int, int, str, int, int] | tuple[int, int, int]]:
    """Nothing to read, output and errors appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    """Of /proc/PID/stat. `ended`: every thread has, and it is only not reaped; its files and ports are closed then."""

    ticks: int
    ended: bool


def _stat(pid: int) -> _Stat | None:
    """Fields state (3), num_threads (20) and starttime (22) of proc(5); absent where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the name before it is in brackets and may hold anything
    return _Stat(ticks=int(rest[18]), ended=state in "ZX" and int(rest[16]) <= 1)


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: the descriptor holds it while its identity is checked."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if process.is_running():
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _gone_within(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
