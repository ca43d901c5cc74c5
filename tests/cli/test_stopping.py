"""A stop before there is anything to lose: `finetune run` while it reads its data. With workers, it is in `test_run`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Tiny


@contextlib.contextmanager
def reading(folder: Path, job: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """The command, waiting for data that does not come: its one file is a pipe, whose other end is given."""
    pipe = folder / "rows.jsonl"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "finetune_cli.app", "run", str(job), "--json", "--set", "dataset.sources.0.path=./rows.jsonl"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writing = os.open(pipe, os.O_WRONLY)  # returns when the command opens it, too
    # Python sees a signal between two bytecodes, or when it interrupts a read: one between the last bytecode and the read is not
    # seen before data comes.
    while state_of(process.pid) == "R":
        time.sleep(0.01)
    try:
        yield process, writing
    finally:
        with contextlib.suppress(OSError):
            os.close(writing)
        if process.poll() is None:
            process.kill()
        process.communicate()


def state_of(number: int) -> str:
    """What the process's main thread does, as in proc(5): R runs or waits for a processor, S sleeps."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM to the process and to its group, as timeout does"],
)
def test_a_stop_while_data_is_read(tmp_path: Path, tiny: Tiny, numbers: list[signal.Signals]) -> None:
    with reading(tmp_path, tiny.job) as (process, writing):
        assert process.stderr is not None
        for number in numbers:
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
        time.sleep(1.1)  # sooner it would be the same wish
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    told = "stopped at once; the same command goes on from the newest checkpoint, if there is one\n"
    assert (process.returncode, out, err) == (130, "", told)
