"""Measurements and report beside the checkpoints."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.exported_models import base_folder, training_run

from finetune_trainer.pipeline import LocalRun
from finetune_trainer.pods.run_objects import METRICS, MetricsCopy, fetch_metrics, put_report
from finetune_trainer.reporting.events import CheckpointCommitted, Event, Notice
from finetune_trainer.run_folder import RunFolder

COMMITTED = CheckpointCommitted(step=2, seconds=1.0, bytes=10, key="checkpoints/step-00000002/attempt-0001/manifest.json")


@dataclass
class Heard:
    """A sink."""

    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


@pytest.fixture
def local(tmp_path: Path) -> LocalRun:
    """A run that has measured something, with storage in a directory."""
    run = training_run(base_folder(tmp_path / "base", "llama"), checkpoints={"storage": str(tmp_path / "storage")})
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.metrics.write_text("{}\n")
    folder.report.write_text("<html>")
    return LocalRun(job=run.job, base=tmp_path, folder=folder, sink=Heard(), stop=threading.Event())


def test_measurements_follow_the_checkpoints(local: LocalRun, tmp_path: Path) -> None:
    copy = MetricsCopy(local)
    copy.record(Notice(message="nothing to copy for"))
    assert not (tmp_path / "storage").exists()
    copy.record(COMMITTED)
    local.folder.metrics.unlink()
    fetch_metrics(local)
    assert local.folder.metrics.read_text() == (tmp_path / "storage" / METRICS).read_text() == "{}\n"


def test_the_first_attempt_finds_nothing(local: LocalRun) -> None:
    local.folder.metrics.unlink()
    fetch_metrics(local)
    assert not local.folder.metrics.exists()


def test_a_copy_that_fails_costs_neither_the_run_nor_the_publication(local: LocalRun, tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file, where a folder is wanted")
    MetricsCopy(local).record(COMMITTED)
    put_report(local)
    sink = local.sink
    assert isinstance(sink, Heard)
    assert [event.message.split(":")[0] for event in sink.events if isinstance(event, Notice)] == [
        "metrics.jsonl was not copied to storage",
        "report.html was not copied to storage",
    ]
