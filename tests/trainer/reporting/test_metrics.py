"""metrics.jsonl and TensorBoard read like one run, whatever was killed and resumed."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.errors import InvalidInput
from finetune_trainer.reporting.events import EvaluationDone, Event, Notice, Resumed, StepDone, StoppedEarly, evaluation_done, to_json
from finetune_trainer.reporting.metrics import MetricsFile, TensorBoardSink, read_metrics


def step(number: int, loss: float = 1.0) -> StepDone:
    return StepDone(
        step=number,
        total_steps=10,
        epoch=number / 10,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        supervised_tokens=4,
        tokens=8,
        tokens_per_second=2.0,
        memory_bytes=2**30,
        seconds=4.0,
    )


def evaluation(number: int, loss: float = 2.0) -> EvaluationDone:
    return evaluation_done(step=number, epoch=number / 10, loss=loss)


EARLY = StoppedEarly(step=3, total_steps=10, loss=2.5, best_step=2, best_loss=2.0, message="stopped early at step 3 of 10")


def record(path: Path, *events: Event) -> None:
    sink = MetricsFile(path)
    for event in events:
        sink.record(event)
    sink.close()


def test_measurements_are_kept_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    record(path, evaluation(0), Notice(message="hello"), step(1), step(2), evaluation(2))
    assert read_metrics(path) == [evaluation(0), step(1), step(2), evaluation(2)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1]["kind"] == "StepDone"
    assert {"loss", "learning_rate", "grad_norm", "supervised_tokens", "tokens_per_second", "memory_bytes"} <= set(lines[1])


def test_an_early_end_is_kept_once_and_forgotten_when_training_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, step(1), step(2), step(3), evaluation(3, 2.5), EARLY)
    record(path, EARLY)  # the same command again
    assert read_metrics(path) == [step(1), step(2), step(3), evaluation(3, 2.5), EARLY]
    record(path, Resumed(step=3, attempt=2), step(4))  # with more patience
    assert read_metrics(path) == [step(1), step(2), step(3), evaluation(3, 2.5), step(4)]


def test_every_line_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = MetricsFile(path)
    sink.record(step(1))
    assert read_metrics(path) == [step(1)]
    sink.close()


def test_resumed_drops_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, evaluation(0), step(1), step(2), evaluation(2), step(3), step(4))
    record(path, Resumed(step=2, attempt=2), step(3, loss=9.0))
    assert read_metrics(path) == [evaluation(0), step(1), step(2), evaluation(2), step(3, loss=9.0)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resumed_within_one_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, evaluation(0), step(1), step(2), step(3), Resumed(step=1, attempt=2), step(2), step(3))
    assert read_metrics(path) == [evaluation(0), step(1), step(2), step(3)]


def test_a_run_that_begins_anew_replaces_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, evaluation(0), step(1), step(2), evaluation(2))
    record(path, evaluation(0), step(1, loss=5.0))
    assert read_metrics(path) == [evaluation(0), step(1, loss=5.0)]


def test_an_evaluation_repeated_after_a_resume_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, step(1), evaluation(1))
    record(path, Resumed(step=1, attempt=2), evaluation(1), step(2), evaluation(2))
    assert read_metrics(path) == [step(1), evaluation(1), step(2), evaluation(2)]


def test_resuming_at_the_end_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, step(1), step(2))
    before = (path.read_bytes(), path.stat().st_ino)
    record(path, Resumed(step=2, attempt=2))
    assert (path.read_bytes(), path.stat().st_ino) == before


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_was_cut_is_left_out_and_then_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, step(1), step(2))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_metrics(path) == [step(1)]
    record(path, step(2), step(3))
    assert read_metrics(path) == [step(1), step(2), step(3)]


def test_a_cut_inside_a_character_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    noted = replace(evaluation(1), note="\u00e9")
    path.write_bytes(to_json(noted).encode() + b"\n" + to_json(noted).encode()[: -len('\u00e9"}'.encode()) + 1])
    assert read_metrics(path) == [noted]


def test_a_broken_line_in_the_middle_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(to_json(step(1)) + "\nnonsense\n" + to_json(step(2)) + "\n")
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl, line 2: .*; move the file away"):
        MetricsFile(path)


def test_no_file_is_no_measurement(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> [(step, value)] as TensorBoard itself shows them. In a process of its own: it brings much along."""
    code = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]); events.Reload()\n"
        "print(json.dumps({t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()['scalars']}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return {tag: [(int(number), float(value)) for number, value in points] for tag, points in json.loads(done.stdout).items()}


def test_tensorboard_shows_one_run_after_a_resume(tmp_path: Path) -> None:
    times = iter(range(1, 100))
    first = TensorBoardSink(tmp_path, clock=lambda: next(times))
    for event in (evaluation(0), step(1), step(2), step(3), Notice(message="not a scalar")):
        first.record(event)
    first.close()
    second = TensorBoardSink(tmp_path, clock=lambda: next(times))
    for event in (Resumed(step=1, attempt=2), step(2, loss=0.5), evaluation(2)):
        second.record(event)
    second.close()
    scalars = tensorboard_scalars(tmp_path)
    assert scalars["train/loss"] == [(1, 1.0), (2, 0.5)]
    assert scalars["eval/loss"] == [(0, 2.0), (2, 2.0)]
    assert scalars["eval/perplexity"][0][1] == pytest.approx(math.exp(2.0))
    assert scalars["train/learning_rate"] == [(1, pytest.approx(1e-4)), (2, pytest.approx(1e-4))]


def test_tensorboard_writes_nothing_before_the_first_measurement(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "tensorboard")
    sink.record(Notice(message="hello"))
    sink.close()
    assert not (tmp_path / "tensorboard").exists()


def test_writing_event_files_imports_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from finetune_trainer.reporting.events import evaluation_done\n"
        "from finetune_trainer.reporting.metrics import TensorBoardSink\n"
        "sink = TensorBoardSink(pathlib.Path(sys.argv[1])); sink.record(evaluation_done(step=0, epoch=0.0, loss=1.0)); sink.close()\n"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"kind": "EvaluationDone", "step": null, "epoch": 1, "loss": 1, "perplexity": 2}', "EvaluationDone: step can't be None"),
        ('{"kind": "EvaluationDone", "step": 1.5, "epoch": 1, "loss": 1, "perplexity": 2}', "EvaluationDone: step can't be 1.5"),
        ('{"kind": "EvaluationDone", "step": 1, "epoch": [], "loss": 1, "perplexity": 2}', r"EvaluationDone: epoch can't be \[\]"),
        ('{"kind": "EvaluationDone", "step": 1, "epoch": 1, "loss": 1, "perplexity": "2"}', "EvaluationDone: perplexity can't be '2'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_whose_values_are_of_other_kinds_is_refused_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(InvalidInput, match=rf"metrics\.jsonl, line 1: {told}; move the file away"):
        read_metrics(tmp_path / "metrics.jsonl")
