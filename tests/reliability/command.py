"""One `finetune run --json`: what it prints, when, and every process of it, told from those of others by a mark in their environment."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_MARK_ENV: Final = "FINETUNE_RELIABILITY"
# Nothing here takes so long that gets on, on the slowest machine: what does is stuck.
STUCK_SECONDS: Final = 900.0
_GONE_SECONDS: Final = 30.0


class Stuck(Exception):
    """A command that didn't end."""


@dataclass(slots=True, kw_only=True)
class Command:
    """The command, from its start on. Times are seconds of this process's clock."""

    process: "subprocess.Popen[str]"
    errors: Path
    mark: str
    began: float
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _ended: bool = False

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for _, event in self.events if event.get("kind") == kind]

    def when(self, kind: str, after: float = 0.0, **fields: object) -> float | None:
        """When the first such event was printed."""
        return next(
            (at for at, event in self.events if at >= after and event.get("kind") == kind and fields.items() <= event.items()), None
        )

    def until(self, kind: str, **fields: object) -> bool:
        """Wait for such an event; False if the command ends without it."""
        deadline = time.monotonic() + STUCK_SECONDS
        with self._more:
            while self.when(kind, **fields) is None:
                if self._ended:
                    return False
                if not self._more.wait(deadline - time.monotonic()):
                    raise Stuck(f"no {kind} within {STUCK_SECONDS:.0f} s")
        return True

    def end(self) -> int:
        """Wait for its end: its exit code. Raises Stuck."""
        assert self._reader is not None
        self._reader.join(STUCK_SECONDS)
        if self._reader.is_alive():
            raise Stuck(f"no end within {STUCK_SECONDS:.0f} s; the last event: {self.events[-1:]}")
        return self.process.wait()

    def processes(self) -> dict[int, str]:
        """All that live of it, by id, with their short names."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if self.mark.encode() in (entry / "environ").read_bytes() and not (entry / "stat").read_text().rpartition(")")[
                    2
                ].startswith(" Z"):
                    found[int(entry.name)] = (entry / "comm").read_text(encoding="utf-8").strip()
        return found

    def rank(self, number: int) -> int:
        """The process of a rank."""
        return next(pid for pid, name in self.processes().items() if name == f"rank-{number}")

    def signal_all(self, number: signal.Signals) -> None:
        """To all of it, at one moment."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def left(self) -> dict[int, str]:
        """What still lives some time after its end; what ends it needs a moment."""
        deadline = time.monotonic() + _GONE_SECONDS
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def said(self) -> str:
        """The error that it ended with; what was written to its stderr, where nothing could be printed any more."""
        if self.events and "error" in self.events[-1][1]:
            return str(self.events[-1][1]["message"])
        lines = [line.removeprefix("error: ") for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.events.append((time.monotonic(), json.loads(line)))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


@contextmanager
def running(words: Sequence[object], environment: Mapping[str, str], errors: Path) -> Iterator[Command]:
    """The command, running; nothing of it is left after the block."""
    value = uuid.uuid4().hex
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | dict(environment) | {_MARK_ENV: value},
            start_new_session=True,
        )
    command = Command(process=process, errors=errors, mark=f"{_MARK_ENV}={value}", began=time.monotonic())
    command._reader = threading.Thread(target=command._read, daemon=True)
    command._reader.start()
    try:
        yield command
    finally:
        command.signal_all(signal.SIGKILL)
        process.wait()
        command._reader.join()
        assert process.stdout is not None
        process.stdout.close()


def steps(commands: Iterable[Command]) -> list[dict[str, Any]]:
    """Every step that any of them did, in order."""
    return [event for command in commands for event in command.of_kind("StepDone")]
