"""What is measured after training is measured once, however often the command runs."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.exported_models import base_folder, training_run

from finetune_api.errors import Interrupted
from finetune_api.evaluation_summary import EvaluationSummary
from finetune_trainer.reporting.events import Event, Notice, StageAdvanced
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.stages.evaluation import measure_model
from finetune_trainer.stages.export import Exported
from finetune_trainer.stages.local_run import LocalRun


class Events:
    """A sink that keeps them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing to close."""


class Stage:
    """Who measures: writes a summary, as the assistant does."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    def check(self, local: LocalRun) -> None:
        """Anything goes."""

    def measure(self, local: LocalRun, exported: Exported, folder: Path, digest: str, record: Callable[[Event], None]) -> EvaluationSummary:
        record(StageAdvanced(stage="evaluation", done=1))
        self.measured.append(exported.step)
        summary = EvaluationSummary(digest=digest, step=exported.step, checkpoint=exported.checkpoint, base_model="base")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(summary.to_json())
        return summary


def exported(folder: Path, step: int) -> Exported:
    return Exported(folder=folder, step=step, checkpoint=f"c{step}", loss=1.5, base=None, base_revision="r")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_folder(tmp_path / "base", "llama")


def measured(
    base: Path, stage: Stage, step: int, sink: Events, evaluation: dict[str, Any], stop: threading.Event | None = None
) -> EvaluationSummary | None:
    run = training_run(base, evaluation=evaluation)
    folder = RunFolder(base.parent / "run")
    local = LocalRun(job=run.job, base=base, folder=folder, sink=sink, stop=stop or threading.Event())
    return measure_model(local, run, exported(base, step), stage, sink)


def test_a_checkpoint_is_measured_once(base: Path) -> None:
    stage, sink = Stage(), Events()
    wanted = {"tasks": ["arc_challenge"]}
    first = measured(base, stage, 4, sink, wanted)
    assert first is not None
    # Another batch size is no other evaluation.
    assert measured(base, stage, 4, sink, {**wanted, "batchSize": 2}) == first
    assert stage.measured == [4]
    assert isinstance(sink.events[-1], Notice)
    assert sink.events[-1].message.startswith("step 4 is evaluated already: ")
    measured(base, stage, 8, sink, wanted)
    measured(base, stage, 8, sink, {"tasks": ["hellaswag"]})
    assert stage.measured == [4, 8, 8]


def test_a_summary_that_is_damaged_is_no_summary(base: Path) -> None:
    stage, sink, wanted = Stage(), Events(), {"samples": {"count": 1}}
    measured(base, stage, 4, sink, wanted)
    [file] = base.parent.glob("run/evaluation/*/summary.json")
    file.write_text(file.read_text().replace('"step": 4', '"step": -1'))
    measured(base, stage, 4, sink, wanted)
    assert stage.measured == [4, 4]


def test_nothing_is_measured_that_is_not_asked_for(base: Path) -> None:
    stage = Stage()
    assert measured(base, stage, 4, Events(), {}) is None
    assert stage.measured == []


def test_a_stop_ends_it(base: Path) -> None:
    stage, stop = Stage(), threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match=r"stopped during evaluation; nothing is lost, the same command goes on"):
        measured(base, stage, 4, Events(), {"tasks": ["arc_challenge"]}, stop)
    assert stage.measured == []
