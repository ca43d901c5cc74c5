"""Pages of commands, typed word for word: the commands of a page, and one shell that runs them on the cluster."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

# A comment in front of a block leaves it out.
BLOCK = re.compile(r"(?P<left_out><!-- not run by the test[^>]*-->\n)?```console\n(?P<lines>.*?)```", re.DOTALL)
# Between the outputs of two commands.
MARK = "\x1e"


def typed(page: str, *, left_out: bool = False) -> list[str]:
    """What a reader types, command by command, without the prompt; or what the blocks that are left out hold.

    >>> typed("```console" + chr(10) + "$ one " + chr(92) + chr(10) + "    two" + chr(10) + "what it prints" + chr(10) + "```")
    ['one \\\\\\n    two']
    """
    commands: list[str] = []
    for block in BLOCK.finditer(page):
        if bool(block["left_out"]) != left_out:
            continue
        for line in block["lines"].splitlines():
            if line.startswith("$ "):
                commands.append(line.removeprefix("$ "))
            elif commands and commands[-1].endswith(("\\", "|")):
                commands[-1] += f"\n{line}"
    return commands


def typed_into_a_shell(commands: list[str], folder: Path, told: Callable[[], str], *, seconds: float) -> list[tuple[str, str]]:
    """Each command with what it printed; the first that fails ends it, and is shown with what is `told`.

    As a terminal in a fresh clone, but for where models are cached.
    """
    script = "set -eo pipefail\n" + "".join(f"echo {MARK}\n{command}\n" for command in commands)
    log = folder / "printed"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script], stdout=output, stderr=output, cwd=ROOT, env=_environment(folder), start_new_session=True
        )
        try:
            code = shell.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # A command that failed leaves those in the background.
            _end(shell)
    outputs = log.read_text().split(MARK)[1:]
    if code != 0:
        raise AssertionError(f"$ {commands[len(outputs) - 1]}\n{outputs[-1]}\n{told()}")
    return list(zip(commands, outputs, strict=True))


def _environment(folder: Path) -> dict[str, str]:
    """This process's, without what `make test` says to its own commands; `make` of the page uses this Python."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return inherited | {"MAKEFLAGS": f"VENV={shlex.quote(sys.prefix)} READY=", "HF_HOME": str(folder / "hub")}


def _end(shell: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(shell.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        shell.wait()
