"""What a driver on this machine leaves of an attempt: its events, and how it ended."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.exported_models import base_folder, training_run
from tests.trainer.heard import Heard

from finetune_api.errors import Interrupted, OutOfMemory
from finetune_trainer.reporting.events import Notice
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.stages.attempt_log import attempt_kept
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.kept_logs import End
from finetune_trainer.storage.kept_runs import kept_runs, life_of, pieces


@pytest.fixture
def local(tmp_path: Path) -> LocalRun:
    run = training_run(base_folder(tmp_path / "base", "llama"), checkpoints={"storage": str(tmp_path / "storage")})
    return LocalRun(job=run.job, base=tmp_path, folder=RunFolder(tmp_path / "run"), sink=Heard(), stop=threading.Event())


@contextmanager
def raised(error: Exception | None) -> Iterator[None]:
    if error is None:
        yield
        return
    with pytest.raises(type(error)):
        yield


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, End(outcome="Done")),
        (Interrupted("stopped after step 2"), End(outcome="Stopped", message="stopped after step 2")),
        (OutOfMemory("rank 1"), End(outcome="Failed", reason="OutOfMemory", message="rank 1")),
        (RuntimeError("a bug"), End(outcome="Failed", reason="RuntimeError", message="a bug")),
    ],
)
def test_events_are_told_and_kept_with_how_it_ended(local: LocalRun, tmp_path: Path, error: Exception | None, end: End) -> None:
    sink = Heard()
    with raised(error), attempt_kept(local, "20261201T000000Z-here", sink) as told:
        told.record(Notice(message="one"))
        told.record(Notice(message="two \ud800"))
        if error is not None:
            raise error
    storage = DirectoryStorage(tmp_path / "storage")
    [run] = kept_runs(storage)["training"]
    lines = b"".join(pieces(storage, run.logs["driver"])).decode().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["one", "two ?"]
    assert len(sink.events) == 2
    assert life_of(storage, run, "driver").end == end
