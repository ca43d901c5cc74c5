"""Real operator processes, started quickly: one process imports the operator once and forks another for each that is wanted.

`python operators.py` is that process: a line of JSON (arguments, log file) in, the new operator's process id out.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A process that works, or did."""

    pid: int
    log: Path

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """As a node that loses its power would; returns when it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As the kubelet would; returns when it is gone."""
        self._end(signal.SIGTERM)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def _end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        deadline = time.monotonic() + 60
        while self.alive:
            assert time.monotonic() < deadline, f"still there:\n{self.lines()}"
            time.sleep(0.01)

    def lines(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Operators:
    """Starts operators; those that are left are killed at the end."""

    def __init__(self, starter: "subprocess.Popen[str]", folder: Path) -> None:
        self._starter = starter
        self._folder = folder
        self._count = 0
        self.started: list[Operator] = []

    def start(self, kubeconfig: Path, *arguments: str) -> Operator:
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        self._count += 1
        log = self._folder / f"operator-{self._count}.log"
        flags = [
            "--kubeconfig",
            str(kubeconfig),
            "--trainer-image",
            "trainer:1",
            "--http-host",
            "127.0.0.1",
            "--http-port",
            "0",
            *arguments,
        ]
        self._starter.stdin.write(json.dumps([flags, str(log)]) + "\n")
        self._starter.stdin.flush()
        operator = Operator(pid=int(self._starter.stdout.readline()), log=log)
        self.started.append(operator)
        return operator

    def lines(self) -> str:
        """What all of them logged."""
        return "".join(operator.lines() for operator in self.started)


@contextlib.contextmanager
def operators(folder: Path, *, code: Path | None = None) -> Iterator[Operators]:
    """For the tests of a module. `code`: the folder of another version's packages."""
    command = [sys.executable, str(Path(__file__))]
    environment = os.environ | ({"PYTHONPATH": str(code)} if code else {})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as starter:
        found = Operators(starter, folder)
        try:
            yield found
        finally:
            for operator in found.started:
                operator.kill()
            assert starter.stdin is not None
            starter.stdin.close()
            starter.wait(30)


def _serve() -> None:
    """Fork an operator for each line."""
    import finetune_operator.__main__ as program

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they leave nothing behind
    for line in sys.stdin:
        arguments, log = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(program.main, arguments, log)
        print(pid, flush=True)


def _become(main: object, arguments: Sequence[str], log: str) -> None:
    assert callable(main)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, target), (2, target)):
        os.dup2(descriptor, number)
    sys.argv = ["finetune-operator", *arguments]
    code = 70
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
