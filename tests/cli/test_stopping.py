"""A stop before there is anything to lose: `finetune run` while it reads its data. With workers, it is in `test_run`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Tiny


@contextlib.contextmanager
def reading(folder: Path, job: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """The command, waiting for data that does not come: its one file is a pipe, whose other end is given."""
    pipe = folder / "rows.jsonl"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "finetune_cli.app", "run", str(job), "--json", "--set", "dataset.sources.0.name=./rows.jsonl"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writing = os.open(pipe, os.O_WRONLY)  # returns when the command reads
    try:
        yield process, writing
    finally:
        with contextlib.suppress(OSError):
            os.close(writing)
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_while_data_is_read(tmp_path: Path, tiny: Tiny, number: signal.Signals) -> None:
    with reading(tmp_path, tiny.job) as (process, writing):
        assert process.stderr is not None
        process.send_signal(number)
        assert process.stderr.readline() == "stopping after a checkpoint; once more to stop at once\n"
        os.write(writing, b"{}\n")
        os.close(writing)
        out, err = process.communicate()
    assert process.returncode == 130
    assert err == ""
    error = json.loads(out.splitlines()[-1])
    assert error["error"] == "Interrupted"
    assert error["message"] == "stopped during preparation; nothing is lost, the same command goes on"


def test_a_second_stop_ends_at_once(tmp_path: Path, tiny: Tiny) -> None:
    with reading(tmp_path, tiny.job) as (process, _):
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "")
