"""One Python program, run where it can do no harm, or not at all.

In: code, files beside it, limits. Out: what it printed, how it ended and the files that it left; or NoSandbox, where this machine
can't hold it to the limits, which is found out by trying. Ctrl-C, an error here, or the end of this process end the program and all that
it started. What the code is for is unknown here.
"""

import io
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from finetune_api.errors import Interrupted, NoSandbox
from finetune_assistant.sandbox import parcels, places
from finetune_assistant.sandbox.limits import Limits, not_enforced, refusal
from finetune_assistant.sandbox.parcels import FAILED, HOME, MEMORY, WALL, WORK

MAIN = "main.py"
Ended = Literal["exit", "signal", "wall", "cpu", "memory", "output"]

LIMITS = Limits()

_PACKAGES = Path(__file__).resolve().parents[2]
_PROBE = Path(__file__).with_name("probe.py")
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from finetune_assistant.sandbox.warden import main; main()"
_SETUP_SECONDS = 20.0  # for what comes before and after the program, on a busy machine
_MOST_RESULT_BYTES = 24 << 20
_LOOK_SECONDS = 0.2  # how soon a stop is noticed
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What became of a program. `files`: by their names relative to its folder, which are the program's choice: never use one as a path.

    `ended`: "exit" by itself, with `exit_code`; "signal" by one, such as a crash; or at a limit: "wall", "cpu", "memory", "output".
    """

    ended: Ended
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    files: Mapping[str, bytes]

    @property
    def succeeded(self) -> bool:
        """It came to its own end, without an error."""
        return self.ended == "exit" and self.exit_code == 0


def execute(
    code: str,
    *,
    files: Mapping[str, bytes] | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    collect: Sequence[str] = (),
    limits: Limits = LIMITS,
    stop: threading.Event | None = None,
) -> Execution:
    """Run `code` as main.py in an empty folder with `files` beside it (plain names), and this interpreter's packages.

    `environment`: variables beside the sandbox's own; nothing of this process's comes through. `collect`: endings of the names of files to
    bring back, such as ".png". Raises NoSandbox where limits aren't enforced; the code has not run then. Raises Interrupted soon after
    another thread sets `stop`.
    """
    if reason := why_not():
        raise NoSandbox(reason)
    order = _order(arguments, environment or {}, collect, limits)
    return _executed(order, {MAIN: code.encode("utf-8", "replace"), **(files or {})}, limits, stop)


@cache
def why_not() -> str | None:
    """None where this machine enforces the limits; otherwise what is missing and the remedy. Tried once a process, with a probe of ours."""
    if sys.platform != "linux":
        return refusal("")
    limits = replace(LIMITS, num_processes=4, disk_bytes=4 << 20, memory_bytes=256 << 20)
    environment = _environment({})
    arguments = [str(limits.memory_bytes), str(limits.num_processes), ",".join(environment)]
    try:
        execution = _executed(_order(arguments, {}, (), limits), {MAIN: _PROBE.read_bytes()}, limits, None)
    except NoSandbox as error:
        return str(error)
    if not execution.succeeded:
        return refusal(f"a first, harmless program failed in the sandbox: {_last_line(execution.stderr) or execution.ended}")
    missing = not_enforced(json.loads(execution.stdout), limits, _visible())
    return refusal(f"not enforced: {', '.join(missing)}") if missing else None


def _visible() -> frozenset[str]:
    paths = [*places.shown(), *places.links(), "/dev", "/etc", "/proc", "/tmp"]
    return frozenset(path.split("/")[1] for path in paths)


def _order(arguments: Sequence[str], environment: Mapping[str, str], collect: Sequence[str], limits: Limits) -> dict[str, object]:
    return {
        "command": [sys.executable, "-B", f"{WORK}/{MAIN}", *arguments],
        "environment": _environment(environment),
        "shown": places.shown(),
        "links": places.links(),
        "collect": list(collect),
        "limits": limits.order(),
    }


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """All that the program gets: nothing of this process's but where its shared libraries are."""
    own = {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": HOME,
        "USER": "user",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # what was printed before a limit is seen
        "PYTHONHASHSEED": "0",  # the same code does the same again
        # A thread is a process to the limits, and each takes addresses.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    path = places.search_path()
    return own | _libraries() | ({"PYTHONPATH": path} if path else {}) | dict(more)


def _libraries() -> dict[str, str]:
    """Where this interpreter's shared libraries are, if it has been told."""
    name = "LD_LIBRARY_PATH"
    return {name: os.environ[name]} if os.environ.get(name) else {}


def _executed(order: dict[str, object], files: Mapping[str, bytes], limits: Limits, stop: threading.Event | None) -> Execution:
    """Start the watching process with the order and read what comes, until nothing of it is left. Raises NoSandbox when it can't start."""
    began = time.monotonic()
    pipes = {name: os.pipe() for name in ("output", "errors", "result")}
    writers = [writer for _, writer in pipes.values()]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, str(_PACKAGES), *map(str, writers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=writers,
            env=_libraries(),
            cwd="/",
            start_new_session=True,  # Ctrl-C of the terminal is for us, who pass it on
        )
    finally:
        for writer in writers:
            os.close(writer)
    received = _Received({name: reader for name, (reader, _) in pipes.items()}, limits.output_bytes)
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it has ended, and says why
            process.stdin.write(parcels.packed(order, files))
            process.stdin.flush()
        whole = received.read(began + limits.wall_seconds + _SETUP_SECONDS, stop)
        # An open standard input is what tells the watching process that we are there.
        status = process.wait(_SETUP_SECONDS) if whole else WALL
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        received.drain()
    return _execution(status, received, limits, time.monotonic() - began)


class _Received:
    """What has come through the three pipes of one program."""

    def __init__(self, readers: Mapping[str, int], output_bytes: int) -> None:
        self.content = {name: bytearray() for name in readers}
        self.overflown = False
        self._most = {"output": output_bytes, "errors": output_bytes, "result": _MOST_RESULT_BYTES}
        self._selector = selectors.DefaultSelector()
        for name, reader in readers.items():
            self._selector.register(reader, selectors.EVENT_READ, name)

    def read(self, until: float, stop: threading.Event | None) -> bool:
        """Read until all three are closed on the other side: True. False when one said too much, or at the time `until`."""
        while self._selector.get_map():
            ready = self._selector.select(_LOOK_SECONDS)
            if not ready and time.monotonic() > until:
                return False
            if stop is not None and stop.is_set():
                raise Interrupted("the program was stopped on request")
            for key, _ in ready:
                self._take(key.fd, key.data)
            if self.overflown:
                return False
        return True

    def drain(self) -> None:
        """Wait for what is still ending, a bounded time, and close the pipes."""
        until = time.monotonic() + _SETUP_SECONDS
        while self._selector.get_map() and time.monotonic() < until:
            for key, _ in self._selector.select(until - time.monotonic()):
                if not os.read(key.fd, _CHUNK):
                    self._close(key.fd)
        for key in list(self._selector.get_map().values()):
            self._close(key.fd)
        self._selector.close()

    def _take(self, reader: int, name: str) -> None:
        chunk = os.read(reader, _CHUNK)
        content = self.content[name]
        room = self._most[name] - len(content)
        content += chunk[:room]
        self.overflown |= len(chunk) > room
        if not chunk:
            self._close(reader)

    def _close(self, reader: int) -> None:
        self._selector.unregister(reader)
        os.close(reader)


def _execution(status: int, received: _Received, limits: Limits, seconds: float) -> Execution:
    stdout, stderr = (received.content[name].decode("utf-8", "replace") for name in ("output", "errors"))
    header: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    ended: Ended = "output"
    if not received.overflown and status in (WALL, MEMORY):
        ended = "wall" if status == WALL else "memory"
    elif not received.overflown:
        try:
            header, files = parcels.received(io.BytesIO(received.content["result"]))
        except ValueError:
            if status not in (FAILED, -signal.SIGKILL):
                raise NoSandbox(refusal(f"the sandbox's own process ended early ({status})")) from None
            # Our own processes were killed, as the kernel does when memory runs out, and the program died with them.
            header = {"status": -signal.SIGKILL, "cpu_seconds": 0.0}
        if "failure" in header:
            raise NoSandbox(refusal(header["failure"]))
        ended = _ended(header["status"], header["cpu_seconds"], stderr, limits)
    return Execution(
        ended=ended,
        exit_code=header["status"] if ended == "exit" else None,
        stdout=stdout,
        stderr=stderr,
        seconds=seconds,
        cpu_seconds=header.get("cpu_seconds", 0.0),
        files=files,
    )


def _ended(status: int, cpu_seconds: float, stderr: str, limits: Limits) -> Ended:
    """How a program ended that wasn't stopped from outside: `status` is its exit status, or minus the signal's number."""
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and cpu_seconds >= limits.cpu_seconds):
        return "cpu"
    if status > 0 and _last_line(stderr).split(":")[0].endswith("MemoryError"):
        return "memory"
    return "signal" if status < 0 else "exit"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
