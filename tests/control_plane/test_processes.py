"""Recorded processes: what is stopped, what is never touched, what survives. Programs of the system stand in for servers."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.testcluster.processes import Processes, ProcessFailed, free_ports

IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def test_the_last_started_is_stopped_first(tmp_path: Path) -> None:
    processes, order = Processes(tmp_path / "new"), tmp_path / "order"
    for name in ("first", "second", "third"):
        ready = tmp_path / name
        processes.start(name, ["sh", "-c", f"trap 'echo {name} >> {order}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done"])
        processes.wait_until(name, ready.exists, seconds=30)
    processes.stop_all()
    assert order.read_text().split() == ["third", "second", "first"]
    assert processes.recorded() == []


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    process = processes.start("deaf", ["sh", "-c", IGNORES_TERM], stop_seconds=0.3)
    processes.wait_until("deaf", lambda: "ready" in Path(process.log).read_text(), seconds=30)
    processes.stop("deaf")
    assert not Path(f"/proc/{process.pid}").exists()


def test_another_process_with_the_same_id_is_not_touched(tmp_path: Path) -> None:
    """A record whose start time is another's: the id was given anew."""
    processes = Processes(tmp_path)
    process = processes.start("server", ["sleep", "600"])
    record = tmp_path / "server.json"
    record.write_text(json.dumps(dataclasses.asdict(process) | {"ticks": process.ticks - 1}))
    processes.stop_all()
    assert process.is_running()
    record.write_text(json.dumps(dataclasses.asdict(process)))
    processes.stop_all()
    assert not process.is_running()


@pytest.mark.parametrize("outlive", [True, False])
def test_what_outlives_its_starter_is_stopped_by_its_record(tmp_path: Path, outlive: bool) -> None:
    code = f"""
import pathlib
from tests.testcluster.processes import Processes
Processes(pathlib.Path({str(tmp_path)!r}), outlive={outlive}).start("server", ["sleep", "600"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    processes = Processes(tmp_path)
    if not outlive:  # the kernel's signal may take a moment
        with pytest.raises(ProcessFailed, match="ended"):
            processes.wait_until("server", lambda: False, seconds=30)
    assert processes.is_running("server") == outlive
    processes.stop_all()
    assert processes.running() == []


def test_the_end_of_the_log_tells_why_it_did_not_start(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("server", ["sh", "-c", "echo no such flag; exit 1"])
    with pytest.raises(ProcessFailed, match=r"server ended before it was ready; the end of .*server\.log:\nno such flag"):
        processes.wait_until("server", lambda: False, seconds=30)
    processes.stop_all()


def test_a_name_runs_once(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("server", ["sleep", "600"])
    with pytest.raises(ProcessFailed, match="already running"):
        processes.start("server", ["sleep", "600"])
    processes.kill("server")
    processes.start("server", ["sleep", "600"])
    processes.stop_all()


def test_ports_are_free_and_differ() -> None:
    assert len(set(free_ports(50))) == 50
    with pytest.raises(ProcessFailed, match=r"192\.0\.2\.1"):
        free_ports(1, "192.0.2.1")
