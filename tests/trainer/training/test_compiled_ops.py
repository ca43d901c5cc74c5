"""Whose turn it is to compile an op, and where; that a killed compilation holds nobody up is seen in tests/cli/test_run.py."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from finetune_trainer.training.compiled_ops import turn, writable_ops_folder

HOLD = """
import sys, time
from pathlib import Path
from finetune_trainer.training.compiled_ops import turn
with turn(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_the_next_waits_and_begins_when_a_killed_process_is_gone(tmp_path: Path) -> None:
    had_it = threading.Event()

    def next_one() -> None:
        with turn(tmp_path):
            had_it.set()

    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "mine\n"
            waiting = threading.Thread(target=next_one)
            waiting.start()
            assert not had_it.wait(0.5)
        finally:
            first.kill()
    waiting.join(30)
    assert had_it.is_set()


def test_the_ops_of_an_image_are_copied_for_a_user_that_may_not_write_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a platform chooses user and group; tests/cluster/test_assigned_ids.py has the real thing."""
    op = tmp_path / "image/op/op.so"
    op.parent.mkdir(parents=True)
    op.write_bytes(b"built")
    os.utime(op, ns=(1, 1))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "image"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert writable_ops_folder() == tmp_path / "image"

    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(tmp_path / "image/op"))
    copied = writable_ops_folder() / "op/op.so"
    assert copied.is_relative_to(tmp_path / "cache")
    assert (copied.read_bytes(), copied.stat().st_mtime_ns) == (b"built", 1), "with another time it would be built anew"
    assert writable_ops_folder() == copied.parents[1], "once"


def test_a_folder_that_is_not_there_yet_is_made_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "new"))
    assert writable_ops_folder() == tmp_path / "new"
