"""`finetune run` of a job that asks for benchmarks, a judge and samples: on a run that is trained already, so that no Ray starts."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.assistant.evaluation.small_benchmarks import OLD_VOCABULARY, base_model, write_benchmarks
from tests.assistant.judging.judge_server import KEY, JudgeServer, judge_server
from tests.cli.conftest import Finetune
from tests.conftest import Tiny
from tests.exported_models import ModelWeights, source_model

from finetune_api.jobfile import load_job
from finetune_assistant.job_evaluation import checks
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import Piece
from finetune_trainer.model.resolve import check_folder
from finetune_trainer.preparation.prepare import prepare
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets

STEPS = 8
TRAINED_ON = "does somebody who takes a kettle from the shelf in the kitchen then use it for boiling water or not"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    with judge_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


@pytest.fixture
def place(tmp_path: Path, tiny: Tiny) -> Path:
    """A working folder with job.yaml, its model and benchmarks, and in runs/demo the checkpoint of a run that was trained to the end."""
    base = base_model(tmp_path / "base")
    write_benchmarks(tmp_path / "benchmarks")
    row = {"messages": [{"role": "user", "content": TRAINED_ON}, {"role": "assistant", "content": "Yes."}]}
    (tmp_path / "rows.jsonl").write_text(f"{tiny.dialogues.read_text()}{json.dumps(row)}\n")
    with (tmp_path / "benchmarks/TruthfulQA.csv").open("a") as file:
        file.write(f"A,Tea,{TRAINED_ON}?,Yes,Yes,No,ours\n")
    spec = {
        "model": {"name": "./base"},
        "dataset": {"sources": [{"path": "./rows.jsonl"}]},
        "training": {"maxSteps": STEPS, "maxSequenceLength": 128, "microBatchSize": 1, "globalBatchSize": 8, "precision": "fp32"},
        "workers": {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2},
        "generation": {"maxNewTokens": 6},
        "evaluation": {
            "tasks": ["truthfulqa_mc2"],
            "taskData": "benchmarks",
            "limit": 3,
            "judge": {"model": "scripted", "limit": 3},
            "samples": {"count": 2, "maxNewTokens": 4},
        },
        "publish": {"directory": {"path": "published"}, "gate": {"judgeWinRate": {"min": 0.99}}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"kind": "FineTuneJob", "metadata": {"name": "demo"}, "spec": spec}))
    folder, job = RunFolder(tmp_path / "runs/demo"), load_job(tmp_path / "job.yaml")
    model = check_folder(base, job.spec.model)
    data = prepare(job, base=tmp_path, model_folder=base, folder=folder.prepared, secrets=Secrets({})).data_shape
    store = job_checkpoints(job, base=tmp_path, default=folder.storage, secrets=Secrets({})).claimed()
    pieces = list(_pieces(ModelWeights(source_model(base, rows=OLD_VOCABULARY + 4, seed=8))))
    store.commit(STEPS, [store.write_part(STEPS, 0, pieces)], {"seconds": 1.0, "data": data.fingerprint, "model": model.revision})
    return tmp_path


def _pieces(weights: ModelWeights) -> Iterator[Piece]:
    for name, shape in weights.shapes.items():
        size = int(np.prod(shape))
        yield Piece(kind="master", name=name, shape=shape, start=0, stop=size, data=weights.read(name, 0, size))


def test_a_gate_refuses_and_what_was_measured_is_not_measured_again(place: Path, judge: JudgeServer, finetune: Finetune) -> None:
    code, out, err = finetune("run", "job.yaml", "--json")
    assert code == 1, out
    assert "spec.publish.gate.judgeWinRate.min=0.99, and scripted preferred it to its base on" in err + out
    assert not (place / "published").exists()
    [summary] = [json.loads(path.read_text()) for path in place.glob("runs/demo/evaluation/*/summary.json")]
    assert [(task["task"], task["documents"], task["limit"]) for task in summary["tasks"]] == [("truthfulqa_mc2", 3, 3)]
    assert {"value", "base", "low", "high", "verdict"} <= summary["tasks"][0].keys()
    assert summary["judge"]["prompts"] == 3
    contaminated = "demo was trained on words of truthfulqa_mc2: 1 of 4 documents share 13 words in a row with its data"
    assert [note for note in summary["notes"] if note.startswith(contaminated)]
    assert str(place) not in json.dumps(summary), "cards show it"
    assert [set(sample) for sample in summary["samples"]] == [
        {"prompt", "baseGreedy", "baseSampled", "tunedGreedy", "tunedSampled"} for _ in range(2)
    ]
    stages = [json.loads(line) for line in out.splitlines() if '"StageStarted"' in line]
    assert [one["unit"] for one in stages if one["stage"] == "evaluation"][:2] == ["requests (demo, greedy)", "requests (demo, sampled)"]
    # What was measured stands in the card before it is published.
    asked = len(judge.requests)
    assert "truthfulqa_mc2" in (place / "runs/demo/model/README.md").read_text()
    code, out, _ = finetune("publish", "runs/demo")
    assert code == 1
    assert not (place / "published").exists()

    code, out, _ = finetune("run", "job.yaml", publish__gate__judgeWinRate__min=0.0)
    assert code == 0, out
    assert "step 8 is evaluated already: " in out
    assert len(judge.requests) == asked
    assert "truthfulqa_mc2" in (place / "published/README.md").read_text()
    assert "truthfulqa_mc2" in (place / "runs/demo/report.html").read_text()
    assert KEY not in out
    assert [path for path in place.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation__tasks": '["arc_chalenge"]'}, "spec.evaluation.tasks arc_chalenge: there is no task of this name; near it: arc_"),
        ({"evaluation__taskData": "./nowhere"}, "there is no such folder; correct the path"),
        ({"evaluation__judge__prompts": "./nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_what_would_fail_after_training_is_refused_before_anything_else(
    place: Path, judge: JudgeServer, finetune: Finetune, changes: dict[str, Any], told: str
) -> None:
    code, out, err = finetune("run", "job.yaml", "--run-folder", "runs/new", **changes)
    assert code == 2, out
    assert told in err
    assert not (place / "runs/new/prepared").exists()


def test_a_missing_key_is_refused_before_anything_else(place: Path, finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = finetune("run", "job.yaml", "--run-folder", "runs/new")
    assert code == 2
    assert "spec.evaluation.judge.apiKeySecret: no key is named, and OPENAI_API_KEY is not set" in err


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("openai", "pip install 'finetune-operator[assistant]'"), ("lm_eval", "pip install 'finetune-operator[evaluation]'")],
)
def test_a_missing_package_is_refused_before_anything_else(
    place: Path, judge: JudgeServer, finetune: Finetune, monkeypatch: pytest.MonkeyPatch, package: str, remedy: str
) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, *arguments: Any) -> Any:
        return None if name == package else found(name, *arguments)

    monkeypatch.setattr(checks, "find_spec", find_spec)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    code, _, err = finetune("run", "job.yaml", "--run-folder", "runs/new")
    assert code == 2
    assert remedy in err
    assert not (place / "runs/new/prepared").exists()
