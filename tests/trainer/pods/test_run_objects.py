"""Measurements and report beside the checkpoints."""

import threading
from pathlib import Path

import pytest
from tests.exported_models import base_folder, training_run
from tests.trainer.heard import Heard

from finetune_trainer.pods.run_objects import METRICS, LiveCopies, fetch_metrics, fetch_statistics, put_report
from finetune_trainer.reporting.events import CheckpointCommitted, Notice, StepDone
from finetune_trainer.reporting.metrics import TensorBoardSink
from finetune_trainer.reporting.report import report_data
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.stages.local_run import LocalRun

COMMITTED = CheckpointCommitted(step=2, seconds=1.0, bytes=10, key="checkpoints/step-00000002/attempt-0001/manifest.json")


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
    copy = LiveCopies(local, "first")
    copy.record(Notice(message="nothing to copy for"))
    assert not (tmp_path / "storage").exists()
    copy.record(COMMITTED)
    local.folder.metrics.unlink()
    fetch_metrics(local)
    assert local.folder.metrics.read_text() == (tmp_path / "storage" / METRICS).read_text() == "{}\n"


def step(number: int) -> StepDone:
    numbers = {"learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 2.0, "seconds": 4.0, "epoch": 0.1}
    return StepDone(step=number, total_steps=10, loss=1.5, supervised_tokens=4, tokens=8, memory_bytes=1, **numbers)


def test_curves_and_report_are_in_storage_while_it_trains(local: LocalRun, tmp_path: Path) -> None:
    """Also what an attempt before this one left there stays: its event files have other names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    storage = tmp_path / "storage"
    (storage / "tensorboard").mkdir(parents=True)
    (storage / "tensorboard/events.out.tfevents.1.former").write_bytes(b"")
    curves = TensorBoardSink(local.folder.tensorboard)

    def report() -> None:
        local.folder.report.write_text("<html>running")

    copies = LiveCopies(local, "first", report=report, every_seconds=0.0)
    for number in (1, 2, 3):
        curves.record(step(number))
        copies.record(step(number))
    # The writer has a thread of its own, too: what it flushed is there.
    curves.close()
    copies.close()
    assert (storage / "report.html").read_text() == "<html>running"
    kept = {path.name: path.read_text() for path in (storage / "logs/training/first").iterdir()}
    assert kept == {"report.html": "<html>running", "metrics.jsonl": "{}\n"}, "the next attempt writes over the others"
    assert len(list((storage / "tensorboard").iterdir())) == 2
    read = EventAccumulator(str(storage / "tensorboard"))
    read.Reload()
    assert [scalar.step for scalar in read.Scalars("train/loss")] == [1, 2, 3]


def test_slow_storage_holds_up_no_event(local: LocalRun) -> None:
    """A copy is under way, and the next events don't wait for it."""
    waits, entered = threading.Event(), threading.Event()

    def report() -> None:
        entered.set()
        assert waits.wait(60)

    copies = LiveCopies(local, "first", report=report, every_seconds=0.0)
    for number in (1, 2, 3):
        copies.record(step(number))
        assert entered.wait(60)
    waits.set()
    copies.close()


def test_the_first_attempt_finds_nothing(local: LocalRun) -> None:
    local.folder.metrics.unlink()
    fetch_metrics(local)
    assert not local.folder.metrics.exists()


def test_what_was_counted_of_the_data_comes_from_the_preparations_objects(local: LocalRun, tmp_path: Path) -> None:
    """A pod that trains nothing itself, or publishes, has no prepared data: report and card are made from meta.json alone."""
    run = training_run(tmp_path / "base")
    local.folder.metrics.unlink()
    fetch_statistics(local, run)
    assert report_data(local.folder.path, run=run).statistics.sources == []
    kept = tmp_path / "storage" / "prepared" / run.data.fingerprint / "meta.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"statistics": {"sources": [{"name": "org/chats", "card": {"licences": ["mit"]}, "commit": "c0"}]}}')
    fetch_statistics(local, run)
    (source,) = report_data(local.folder.path, run=run).statistics.sources
    assert (source.name, source.licence, source.commit) == ("org/chats", "mit", "c0")


def test_a_copy_that_fails_costs_neither_the_run_nor_the_publication(local: LocalRun, tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file, where a folder is wanted")
    LiveCopies(local, "first").record(COMMITTED)
    put_report(local)
    sink = local.sink
    assert isinstance(sink, Heard)
    assert [event.message.split(":")[0] for event in sink.events if isinstance(event, Notice)] == [
        "metrics.jsonl was not copied to storage",
        "report.html was not copied to storage",
    ]
