"""The run folder: one process at a time, and nothing half written."""

import multiprocessing
import multiprocessing.synchronize
import os
from pathlib import Path

import pytest

from finetune_api.errors import InvalidInput, RunConflict
from finetune_trainer.run_folder import RunFolder


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.locked(),
        pytest.raises(RunConflict, match=f"in use by process {os.getpid()}; wait for it, or choose another"),
        folder.locked(),
    ):
        pass


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with RunFolder(path).locked():
        ready.set()
        multiprocessing.Event().wait()


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready))
    holder.start()
    assert ready.wait(30)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunConflict, match=f"process {holder.pid}"), folder.locked():
        pass
    holder.kill()
    holder.join()
    with folder.locked():
        assert folder.path.is_dir()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidInput, match=r"can't be used: .*choose another with --run-folder"),
        RunFolder(tmp_path / "file" / "run").locked(),
    ):
        pass
