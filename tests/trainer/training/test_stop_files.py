"""The files between preStop and training, and the hook as a process of its own."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune_trainer.training.stop_files import StopFiles

TRAINER = Path(__file__).parents[3] / "trainer"


@pytest.fixture
def files(tmp_path: Path) -> StopFiles:
    return StopFiles(tmp_path / "not yet" / "finetune")


def before_stop(folder: Path, environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    """The hook, whose temporary folder is `folder`."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", "finetune_trainer.pods.before_stop"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TRAINER), "TMPDIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(hook: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it said; killed when it hangs."""
    try:
        _, said = hook.communicate(timeout=60)
    finally:
        hook.kill()
    return hook.returncode, said


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=60)
    return process.pid


def test_nothing_is_said_in_a_folder_that_is_missing(files: StopFiles) -> None:
    assert not files.requested()
    assert not files.stopped()
    assert not files.running()
    assert not files.wait_until_stopped(0)
    files.clear()
    assert not files.folder.exists()


def test_what_is_said_is_seen_by_the_other_side(files: StopFiles) -> None:
    other = pickle.loads(pickle.dumps(files))  # as Ray hands it to a worker
    files.request()
    assert (other.requested(), other.stopped(), other.running()) == (True, False, False)
    other.say_running()
    other.say_stopped()
    assert (files.requested(), files.stopped(), files.running()) == (True, True, True)


def test_saying_it_twice_changes_nothing(files: StopFiles) -> None:
    for say in (files.request, files.say_stopped, files.say_running) * 2:
        say()
    assert sorted(path.name for path in files.folder.iterdir()) == ["running", "stop-requested", "stopped"]


def test_a_new_driver_begins_clean(files: StopFiles) -> None:
    files.request()
    files.say_stopped()
    files.say_running()
    files.clear()
    assert not any((files.requested(), files.stopped(), files.running()))


def test_waiting_ends_when_it_is_said(files: StopFiles) -> None:
    said = threading.Thread(target=files.say_stopped)
    said.start()
    assert files.wait_until_stopped(60, poll=0.01)
    said.join()


def test_a_process_that_was_killed_does_not_run(files: StopFiles) -> None:
    files.say_running()
    marker = files.folder / "running"
    _, started = marker.read_text().split(" ", 1)
    marker.write_text(f"{ended_process()} {started}")
    assert not files.running()


def test_a_later_process_with_the_same_number_is_not_the_one_that_trained(files: StopFiles) -> None:
    files.say_running()
    marker = files.folder / "running"
    pid, started = marker.read_text().split(" ", 1)
    marker.write_text(f"{pid} {int(started) - 1}")
    assert not files.running()


def test_a_process_that_nobody_has_waited_for_yet_does_not_run(files: StopFiles) -> None:
    script = "from finetune_trainer.training.stop_files import StopFiles; StopFiles().say_running()"
    files.folder.mkdir(parents=True)
    environment = {"PYTHONPATH": str(TRAINER), "TMPDIR": str(files.folder.parent)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but still in the table of processes
    assert (files.folder / "running").read_text().startswith(f"{process.pid} ")
    assert not files.running()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("text", ["", "17", "x y", "-1 0"])
def test_a_marker_that_is_damaged_does_not_count(files: StopFiles, text: str) -> None:
    files.say_running()
    (files.folder / "running").write_text(text)
    assert not files.running()


def test_the_hook_returns_where_nothing_trains(tmp_path: Path) -> None:
    assert finished(before_stop(tmp_path, {"FINETUNE_STOP_SECONDS": "3600"})) == (0, "")
    assert StopFiles(tmp_path / "finetune").requested()


def test_the_hook_waits_for_the_checkpoint(tmp_path: Path) -> None:
    files = StopFiles(tmp_path / "finetune")
    files.say_running()
    hook = before_stop(tmp_path, {})
    while not files.requested():
        assert hook.poll() is None
        time.sleep(0.01)
    assert hook.poll() is None  # it asked first, and waits
    files.say_stopped()
    assert finished(hook) == (0, "")


def test_the_hook_asks_a_worker_that_began_in_the_same_moment(tmp_path: Path) -> None:
    files = StopFiles(tmp_path / "finetune")
    files.say_running()
    hook = before_stop(tmp_path, {})
    while not files.requested():
        assert hook.poll() is None
        time.sleep(0.01)
    (files.folder / "stop-requested").unlink()  # what a worker that begins does with what it finds
    while not files.requested():
        assert hook.poll() is None
        time.sleep(0.01)
    files.say_stopped()
    assert finished(hook) == (0, "")


def test_the_hook_ends_when_the_training_was_killed(tmp_path: Path) -> None:
    files = StopFiles(tmp_path / "finetune")
    script = "import sys; from finetune_trainer.training.stop_files import StopFiles; StopFiles().say_running(); sys.stdin.read()"
    environment = {"PYTHONPATH": str(TRAINER), "TMPDIR": str(tmp_path)}
    training = subprocess.Popen([sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE)
    try:
        while not files.running():
            assert training.poll() is None
            time.sleep(0.01)
        hook = before_stop(tmp_path, {"FINETUNE_STOP_SECONDS": "3600"})
        while not files.requested():
            assert hook.poll() is None
            time.sleep(0.01)
    finally:
        training.kill()
        training.communicate(timeout=60)
    assert finished(hook) == (0, "")
    assert not files.stopped()


@pytest.mark.parametrize("seconds", ["0", "1"])
def test_the_hook_waits_no_longer_than_it_may(tmp_path: Path, seconds: str) -> None:
    StopFiles(tmp_path / "finetune").say_running()
    assert finished(before_stop(tmp_path, {"FINETUNE_STOP_SECONDS": seconds})) == (0, "")


@pytest.mark.parametrize("seconds", ["", "soon", "-3"])
def test_the_hook_takes_the_default_for_what_is_no_number_of_seconds(tmp_path: Path, seconds: str) -> None:
    files = StopFiles(tmp_path / "finetune")
    files.say_running()
    files.say_stopped()
    assert finished(before_stop(tmp_path, {"FINETUNE_STOP_SECONDS": seconds})) == (0, "")


def test_the_hook_does_not_fail_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "finetune").write_text("a file where the folder must be")
    code, said = finished(before_stop(tmp_path, {}))
    assert code == 0
    assert "can't ask the training in this pod to stop" in said


def test_the_hook_imports_nothing_but_the_standard_library(tmp_path: Path) -> None:
    # No site-packages at all (-S, and -E is not given because PYTHONPATH names our source).
    assert finished(before_stop(tmp_path, {}, "-S")) == (0, "")
    script = "import sys; from finetune_trainer.pods import before_stop; print([m for m in sys.modules if m.startswith('finetune_')])"
    printed = subprocess.run(
        [sys.executable, "-S", "-c", script], env={"PYTHONPATH": str(TRAINER)}, capture_output=True, text=True, check=True
    )
    rooms = ("", ".pods", ".pods.before_stop", ".training", ".training.stop_files")
    ours = [f"finetune_trainer{room}" for room in rooms]
    assert sorted(eval(printed.stdout)) == sorted(ours)
