"""A benchmark that stands in a run's training data is told, also where that can't be looked at."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from examples.demo.s3_server import S3Server
from tests.assistant.evaluation.small_benchmarks import arc_rows
from tests.conftest import BUCKET
from tests.exported_models import base_folder, training_run

from finetune_assistant.evaluation.contamination import contamination_notes
from finetune_assistant.evaluation.tasks import chosen_tasks
from finetune_trainer.checkpoints.job_storage import storage_at
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets

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


def _dialogues(said: str) -> str:
    return "".join(
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}) + "\n"
        for text in ("Hello?", said)
    )


def _run(place: Path, said: str) -> Path:
    (place / "dialogues.jsonl").write_text(_dialogues(said))
    return _run_of(place, {"path": "./dialogues.jsonl"})


def _run_of(place: Path, source: dict[str, Any], **spec: Any) -> Path:
    run = training_run(base_folder(place / "base", "llama"), dataset={"sources": [source]}, **spec)
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


def test_data_in_the_storage_of_the_checkpoints_is_looked_at(
    tmp_path: Path, files: list[Path], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    checkpoints = {"storage": f"{url}/run", "endpoint": s3.endpoint}
    folder = _run_of(tmp_path, {"path": f"{url}/dialogues.jsonl"}, checkpoints=checkpoints)
    run = RunFolder(folder).frozen_run()
    assert run is not None
    storage_at(url, run.job, base=tmp_path, secrets=Secrets()).put("dialogues.jsonl", _dialogues(f"Tell me about {LONG}, test!").encode())
    (told,) = contamination_notes(folder, files)
    assert "was trained on words of arc_challenge: 1 of 3 documents" in told


def test_keys_that_are_missing_are_told_without_a_secrets_name(tmp_path: Path, files: list[Path]) -> None:
    """Cards show it."""
    source = {"path": "s3://bucket/rows.jsonl", "credentialsSecret": {"name": "keys-of-us"}}
    (told,) = contamination_notes(_run_of(tmp_path, source), files)
    assert told.endswith("whether its training data holds these benchmarks is unknown: the keys of its data aren't here")
