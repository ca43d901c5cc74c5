"""The preparation pod without Ray: what it leaves, what may change after it, and what its refusals say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Tiny
from tests.trainer.hub_server import Fault, HubServer

from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_trainer.claims import IDENTITY_KEY
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.pods.prepare import prepared


class Preparation:
    """A job in a folder that is prepared as often as wanted, each time in a new pod."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job, self.pods = folder, job, 0

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.job["spec"]
        return spec

    def run(self) -> tuple[int, PodResult]:
        """Exit code and result."""
        self.pods += 1
        job_file, log = self.folder / "job.json", self.folder / "termination-log"
        job_file.write_text(json.dumps(self.job))
        code = run_stage(prepared, Pod(scratch=self.folder / f"pod-{self.pods}", job_file=job_file, termination_log=log))
        result = parse_pod_result(log.read_text())
        assert result is not None
        return code, result


@pytest.fixture
def preparation(tmp_path: Path, tiny: Tiny) -> Preparation:
    job = yaml.safe_load(tiny.job.read_text())
    job["spec"] |= {
        "model": {"name": str(tiny.model), "initialization": "random"},
        "dataset": {"sources": [{"name": str(tiny.dialogues)}], "evaluation": {"fraction": 0.2}, "processes": 1},
        "checkpoints": {"storage": str(tmp_path / "storage")},
        "publish": {},
    }
    return Preparation(tmp_path, job)


def test_data_is_in_storage_and_its_shape_in_the_result(preparation: Preparation, tmp_path: Path) -> None:
    code, result = preparation.run()
    assert (code, result.outcome) == (0, "Done")
    assert result.preparation is not None
    assert result.preparation.data.train.rows > 0
    assert (tmp_path / "storage/prepared" / result.preparation.data.fingerprint / "complete.json").is_file()
    assert preparation.run() == (code, result)


def test_a_job_may_be_changed_after_its_preparation(preparation: Preparation, tmp_path: Path) -> None:
    """Until there is an attempt nobody owns the storage, and what differs in nothing that shapes rows shares its data."""
    first = preparation.run()[1].preparation
    preparation.spec["training"]["optimizer"]["learningRate"] = 0.001
    second = preparation.run()[1].preparation
    preparation.spec["training"]["maxSequenceLength"] = 128
    third = preparation.run()[1].preparation
    assert first is not None
    assert first == second
    assert third is not None
    assert third.data.fingerprint != first.data.fingerprint
    assert not (tmp_path / "storage" / IDENTITY_KEY).exists()


def test_storage_of_another_run_is_refused(preparation: Preparation, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / IDENTITY_KEY).write_text(json.dumps({"identity": "0" * 64, "job": "dill"}))
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (2, "RunConflict", True)
    assert "belongs to job 'dill'" in str(result.message)


@pytest.mark.parametrize(
    ("path", "value", "reason", "message"),
    [
        (("checkpoints", "storage"), "/dev/null/storage", "InvalidStorage", "name a directory that this user may write"),
        (("model", "name"), "/no/such/model", "InvalidModel", "/no/such/model is no directory"),
        (("dataset", "sources"), [{"name": "/no/such/rows.jsonl"}], "InvalidData", "/no/such/rows.jsonl"),
        (("publish", "directory"), {"path": "/dev/null"}, "InvalidPublication", "/dev/null"),
        (("training", "epochs"), -1, "InvalidSpec", "spec.training.epochs"),
    ],
)
def test_what_would_fail_later_fails_now(preparation: Preparation, path: tuple[str, str], value: Any, reason: str, message: str) -> None:
    preparation.spec[path[0]][path[1]] = value
    code, result = preparation.run()
    assert (code, result.outcome, result.reason, result.permanent) == (2, "Failed", reason, True)
    assert message in str(result.message)


def test_a_bad_row_is_named(preparation: Preparation, tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "rows.jsonl").write_text(tiny.dialogues.read_text() + '{"messages": [{"role": "user"}]}\n')
    preparation.spec["dataset"]["sources"] = [{"name": str(tmp_path / "rows.jsonl")}]
    code, result = preparation.run()
    assert (code, result.reason) == (2, "InvalidData")
    assert f"{tmp_path}/rows.jsonl" in str(result.message)
    assert not (tmp_path / "storage/prepared").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    # What HF_ENDPOINT would set, had it been there when the library was imported (huggingface_hub 2.4).
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.close()


def test_a_hub_that_is_away_is_tried_again_and_one_that_refuses_is_not(preparation: Preparation, hub: HubServer) -> None:
    preparation.spec["model"] = {"name": "org/base"}
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (2, "InvalidModel", True)
    assert "no such model on the Hub" in str(result.message)
    hub.faults.append(Fault("/api/models/", "status", times=100))
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (1, "InvalidModel", False)
    assert "can't be fetched from the Hub" in str(result.message)


def test_a_token_that_may_only_read_is_refused_before_training(
    preparation: Preparation, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    preparation.spec["publish"] = {"hub": {"repository": "org/tiny"}}
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (2, "InvalidPublication", True)
    assert "may only read" in str(result.message)
    assert "hf_read" not in str(result.message)
