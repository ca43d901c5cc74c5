"""docs/try-it.md, typed word for word: its commands run in one shell against the cluster and show what the page says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.operator import Jobs
from tests.conftest import ROOT
from tests.testcluster import first_job
from tests.testcluster.cluster import Cluster
from tests.trainer.hub_server import HubServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

PAGE = ROOT / "docs/try-it.md"
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


def test_only_the_cluster_itself_is_left_out() -> None:
    programs = [command.split()[:2] for command in typed(PAGE.read_text(), left_out=True)]
    assert programs == [["apt-get", "install"], ["make", "cluster"], ["make", "cluster-down"]]


def test_the_page_typed_word_for_word(own_cluster: Cluster, hub: HubServer, tmp_path: Path) -> None:
    first_job.prepare(own_cluster, say=lambda line: None)
    outputs = _typed_into_a_shell(own_cluster, typed(PAGE.read_text()), tmp_path)

    def printed(beginning: str) -> str:
        return next(output for command, output in outputs if command.startswith(beginning))

    assert printed("kubectl get nodes").count(" Ready ") == 2
    assert "condition met" in printed("kubectl wait --for=condition=Prepared")
    run = [line.strip(" ,") for line in printed("curl").splitlines()]
    assert {'"name": "tiny"', '"status": "RUNNING"', '"world_rank": 0', '"world_rank": 1'} <= set(run)
    suspended = printed("kubectl get finetunejob,pods")
    assert "Suspended" in suspended
    assert "Running" not in suspended, "its pods are given back"
    described = printed("kubectl describe finetunejob")
    for word in ("Succeeded", "Attempts:", "Stopped", "Finished", "Events:"):
        assert word in described, described
    assert hub.repositories["org/tiny"].at("main") is not None
    assert printed("finetune chat").strip(), "it answers"


def _typed_into_a_shell(cluster: Cluster, commands: list[str], folder: Path) -> list[tuple[str, str]]:
    """Each command with what it printed; the first that fails ends it. As a terminal in a fresh clone, but for where models are cached."""
    script = "set -eo pipefail\n" + "".join(f"echo {MARK}\n{command}\n" for command in commands)
    log = folder / "printed"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script], stdout=output, stderr=output, cwd=ROOT, env=_environment(folder), start_new_session=True
        )
        try:
            code = shell.wait(timeout=1100)
        finally:
            # A command that failed leaves those in the background.
            _end(shell)
    outputs = log.read_text().split(MARK)[1:]
    if code != 0:
        told = Jobs(cluster=cluster, namespace="default", data="").told("tiny")
        raise AssertionError(f"$ {commands[len(outputs) - 1]}\n{outputs[-1]}\n{told}")
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
