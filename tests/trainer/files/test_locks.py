"""Locks with one holder at a time, which end with their process."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_trainer.files import locks
from finetune_trainer.files.locks import LockHeld, folder_in_use, locked, locked_in_turn, remove_unused

HOLD = """
import sys, time
from pathlib import Path
from finetune_trainer.files.locks import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


USE = HOLD.replace("locked", "folder_in_use")


@contextmanager
def _holder(path: Path, program: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mine\n"
            yield process
        finally:
            process.kill()


def test_a_lock_that_is_held_tells_by_whom_and_goes_with_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with _holder(path) as holder, pytest.raises(LockHeld) as held, locked(path):
        raise AssertionError
    assert held.value.holder == str(holder.pid)
    with locked(path):
        assert path.read_text() == str(os.getpid())


def test_a_lock_is_held_against_the_same_process_too(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path), pytest.raises(LockHeld, match=str(os.getpid())), locked(path):
        raise AssertionError
    with locked(path):
        pass


def test_a_turn_begins_when_the_holder_is_gone(tmp_path: Path) -> None:
    path, had_it = tmp_path / "turn", threading.Event()

    def next_one() -> None:
        with locked_in_turn(path):
            had_it.set()

    with _holder(path):
        waiting = threading.Thread(target=next_one)
        waiting.start()
        assert not had_it.wait(0.5)
    waiting.join(30)
    assert had_it.is_set()


def test_a_lock_file_that_was_removed_guards_its_name_no_more(tmp_path: Path) -> None:
    """A holder may remove the file that it holds: whoever opened it before must not believe that it holds the new one."""
    path, order = tmp_path / ".lock", []

    def next_one() -> None:
        with locked_in_turn(path):
            order.append("second")
            assert path.exists()

    with locked(path):
        waiting = threading.Thread(target=next_one)
        waiting.start()
        order.append("first")
        path.unlink()
    waiting.join(30)
    assert order == ["first", "second"]


def test_a_failing_body_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(RuntimeError, match="stop"), locked(path):
        raise RuntimeError("stop")
    with locked(path):
        pass


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    with locked(tmp_path / "made/.lock"):
        (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file/.lock"):
        raise AssertionError
    with pytest.raises(OSError, match="No such file"), locked(Path("/proc/.lock")):  # not "another process has it"
        raise AssertionError


def test_a_file_system_without_locks_is_an_oserror_and_no_weaker_lock_is_taken(tmp_path: Path) -> None:
    """filelock's default would go by a file that exists, which outlives a killed process."""
    code = """
import errno, fcntl, sys
from pathlib import Path
def flock(file, operation): raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
from finetune_trainer.files.locks import NO_LOCKS, locked
try:
    with locked(Path(sys.argv[1])): print("taken")
except OSError as error:
    print(error.errno in NO_LOCKS)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / ".lock")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_folder_that_a_killed_process_left_is_removed_and_none_that_is_used(tmp_path: Path) -> None:
    used, left, file = tmp_path / "used", tmp_path / "left", tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to(used)
    with _holder(left, USE):
        (left / "chunk").touch()
        remove_unused([left])
        assert (left / "chunk").exists()
    with _holder(used, USE), folder_in_use(used):
        remove_unused([*tmp_path.iterdir(), tmp_path / "absent"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "used"]


def test_a_folder_is_made_anew_where_it_is_removed_as_somebody_begins_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, right, removed = tmp_path / "folder", locks._share, list[int]()

    def share(descriptor: int) -> None:
        if not removed:
            removed.append(descriptor)
            path.rmdir()
        right(descriptor)

    monkeypatch.setattr(locks, "_share", share)
    with folder_in_use(path) as found:
        assert removed
        assert os.path.samestat(found, path.stat())
        remove_unused([path])
        assert path.is_dir()
