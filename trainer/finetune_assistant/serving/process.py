"""The server's process: started, waited for until it answers, and ended with us.

In: a command. Out: a process whose lines go to our stderr. What it serves is unknown here.
"""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from finetune_api.errors import InvalidInput
from finetune_assistant.serving.ports import bound
from finetune_assistant.serving.servers import Command
from finetune_trainer.files.locks import LockHeld, locked

# How long answers that are under way may take once the server is told to end.
_GRACE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 5.0


@contextmanager
def kept_port(host: str, port: int) -> Iterator[int]:
    """A port that nobody listens on, and that no other `finetune serve` of this user takes until the block ends. Raises InvalidInput.

    A server binds it only once its model is loaded, which may take minutes: another one's answers would pass for its own.
    """
    with bound(host, port) as listener:
        free = int(listener.getsockname()[1])
    lock = Path(tempfile.gettempdir()) / f"finetune-serve-{os.getuid()}-{free}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock))
        except LockHeld as error:
            raise InvalidInput(
                f"--port {port}: another `finetune serve` (process {error.holder}) is about to listen there; try --port 0 for any free one"
            ) from None
        try:
            yield free
        finally:
            lock.unlink(missing_ok=True)  # a file a port is more than a temporary folder should keep


@contextmanager
def running(command: Command) -> Iterator["subprocess.Popen[bytes]"]:
    """The server's process, in a session of its own: a terminal's Ctrl-C reaches us alone, and we end it, as we do when told to end."""
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(
            command.arguments,
            cwd=command.working_folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def answers(process: "subprocess.Popen[bytes]", address: str) -> bool:
    """Wait until the server at `host:port` says that it is well; False when its process ends before that."""
    while process.poll() is None:
        connection = http.client.HTTPConnection(address, timeout=_ANSWER_SECONDS)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        connection.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_SECONDS)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and don't ask twice: whoever interrupts the waiting, or waits too long, gets it killed with what it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """These signals are a Ctrl-C, too."""
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
