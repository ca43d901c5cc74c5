"""A benchmark that stands in a run's training data is told, also where that can't be looked at."""

import json
from pathlib import Path

import pytest
from tests.assistant.evaluation.small_benchmarks import arc_rows
from tests.exported_models import base_folder, training_run

from finetune_assistant.evaluation.contamination import contamination_notes
from finetune_assistant.evaluation.tasks import chosen_tasks
from finetune_trainer.run_folder import RunFolder

LONG = "a very long question about what a kettle does on a stove while somebody waits for tea to be ready"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        rows = arc_rows(3)
        rows[0]["doc"]["query"] = f"Question: Here is {LONG}, {split}?\nAnswer:"
        (data / f"arc_challenge_{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return chosen_tasks(["arc_challenge"], data, tmp_path / "tasks").evaluation_files


def _run(place: Path, said: str) -> Path:
    (place / "dialogues.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}) + "\n"
            for text in ("Hello?", said)
        )
    )
    run = training_run(base_folder(place / "base", "llama"), dataset={"sources": [{"path": "./dialogues.jsonl"}]})
    (place / "run").mkdir()
    RunFolder(place / "run").freeze(run, place)
    return place / "run"


def test_words_of_a_question_in_training_data_are_told_with_their_row(tmp_path: Path, files: list[Path]) -> None:
    run = _run(tmp_path, f"Please answer {LONG.upper()}!")
    (told,) = contamination_notes(run, files)
    assert "was trained on words of arc_challenge: 1 of 3 documents" in told
    assert "dialogues.jsonl row 2: a very long question about what a kettle does on a stove while" in told


def test_other_data_is_not_told_of(tmp_path: Path, files: list[Path]) -> None:
    assert contamination_notes(_run(tmp_path, "What does a kettle do on a stove?"), files) == []


def test_data_that_is_gone_is_told(tmp_path: Path, files: list[Path]) -> None:
    run = _run(tmp_path, LONG)
    (tmp_path / "dialogues.jsonl").unlink()
    (told,) = contamination_notes(run, files)
    assert "whether its training data holds these benchmarks is unknown" in told
    assert "no such file" in told
