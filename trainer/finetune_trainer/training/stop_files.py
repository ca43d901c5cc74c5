"""Three small files through which a pod's preStop hook and the training in that pod find each other.

`before_stop` asks and waits; each rank, and the driver, looks and answers. The files are in the pod's own temporary folder: no other
pod sees them. This room imports the standard library only: a hook must start in milliseconds.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StopFiles:
    """The files' folder, which needn't exist."""

    folder: Path = Path(tempfile.gettempdir()) / "finetune"

    def clear(self) -> None:
        """Forget a former container of this pod, whose files outlive it. A driver or worker begins with it."""
        for path in (self._running, self._requested, self._stopped):
            path.unlink(missing_ok=True)

    def say_running(self) -> None:
        """This process trains, or drives a training: a stop has to wait for `say_stopped`, or for the end of this process."""
        self._write(self._running, f"{os.getpid()} {_started(os.getpid())}")

    def running(self) -> bool:
        """Whether the process that said so last is alive. One that was killed has nothing to commit any more."""
        try:
            pid, started = self._running.read_text(encoding="utf-8").split(" ", 1)
        except (OSError, ValueError):
            return False
        return pid.isdecimal() and _started(int(pid)) == started

    def request(self) -> None:
        """Ask for a checkpoint and an end."""
        self._write(self._requested, "")

    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._requested.exists()

    def say_stopped(self) -> None:
        """Nothing in this pod would be lost now: the checkpoint is committed, or the training is over, however it ended."""
        self._write(self._stopped, "")

    def stopped(self) -> bool:
        """Whether the pod may go."""
        return self._stopped.exists()

    def wait_until_stopped(self, seconds: float, poll: float = 0.2) -> bool:
        """Wait that long at most; whether it was said. Looks once when `seconds` is 0."""
        deadline = time.monotonic() + seconds
        while not self.stopped():
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(poll, left))
        return True

    @property
    def _running(self) -> Path:
        return self.folder / "running"

    @property
    def _requested(self) -> Path:
        return self.folder / "stop-requested"

    @property
    def _stopped(self) -> Path:
        return self.folder / "stopped"

    def _write(self, path: Path, text: str) -> None:
        """Whole or not at all: the other side may look at any moment."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


def _started(pid: int) -> str:
    """When the process began, in ticks after boot: with it a number isn't mistaken for a later process's.

    Fields 3 and 22 of /proc/PID/stat, after the name in parentheses, which may hold anything: proc_pid_stat(5).
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return "-"  # gone; where there is no /proc every process looks like this, and counts as alive
    return "ended" if state in "ZX" else fields[18]
