"""The preparation pod without Ray: what it leaves, what may change after it, and what its refusals say."""

import errno
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from examples.demo.s3_server import S3Server
from safetensors.numpy import save_file
from tests.conftest import BUCKET, Tiny
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.trainer.hub_server import Fault as HubFault
from tests.trainer.hub_server import HubServer

from finetune_api.errors import InvalidData, StorageFailed
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_trainer.checkpoints.claims import IDENTITY_KEY
from finetune_trainer.model.hub import ModelUnreachable
from finetune_trainer.pods.pod import Pod, failed_result, run_stage
from finetune_trainer.pods.prepare import prepared
from finetune_trainer.storage.places import open_storage


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
        "dataset": {"sources": [{"path": str(tiny.dialogues)}], "evaluation": {"fraction": 0.2}, "processes": 1},
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


def of_family(preparation: Preparation, tiny: Tiny, folder: Path, **config: Any) -> None:
    """The job with a random model of another family."""
    shutil.copytree(tiny.model, folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows, "bos_token_id": 0, "eos_token_id": 0, **config}))
    preparation.spec["model"]["name"] = str(folder)


@pytest.mark.training
def test_an_architecture_without_activation_checkpointing_is_refused_before_training(
    preparation: Preparation, tmp_path: Path, tiny: Tiny
) -> None:
    config = {"n_embd": 32, "n_head": 2, "n_layer": 2, "dff": 32, "n_positions": 256}
    of_family(preparation, tiny, tmp_path / "ctrl", model_type="ctrl", architectures=["CTRLLMHeadModel"], **config)
    preparation.spec["training"]["activationCheckpointing"] = True
    _, result = preparation.run()
    assert result.outcome == "Failed"
    assert "CTRLLMHeadModel has no activation checkpointing: set spec.training.activationCheckpointing: false" in result.message


@pytest.mark.training
def test_what_one_dialogue_a_call_costs_is_told_before_training(
    preparation: Preparation, tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    of_family(preparation, tiny, tmp_path / "falcon", model_type="falcon", architectures=["FalconForCausalLM"], **config)
    code, result = preparation.run()
    assert code == 0
    assert result.preparation is not None
    train = result.preparation.data.train
    assert f"{train.segments:,} calls an epoch where {train.rows:,} packed rows would do" in capsys.readouterr().out
    assert result.preparation.model_shape.positions == 2048


def kinds(out: str) -> list[str]:
    """What the log says has happened."""
    return [json.loads(line).get("kind") for line in out.splitlines()]


def test_data_that_is_in_storage_is_not_tokenised_again(
    preparation: Preparation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a pod that follows one that was deleted, and for a job that is applied again."""
    first = preparation.run()
    assert "StageStarted" in kinds(capsys.readouterr().out)
    assert preparation.run() == first
    out = capsys.readouterr().out
    assert "StageStarted" not in kinds(out)
    assert first[1].preparation is not None
    objects = tmp_path / "storage/prepared" / first[1].preparation.data.fingerprint
    assert f"data prepared earlier is used again: {objects}/" in out
    assert not (tmp_path / "pod-2/run/prepared").exists()


@pytest.mark.parametrize("damage", ["no marker", "cut", "other meta"])
def test_data_that_is_not_whole_is_tokenised_and_uploaded_again(
    preparation: Preparation, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first = preparation.run()
    (objects,) = (tmp_path / "storage/prepared").iterdir()
    before = {path.name: path.read_bytes() for path in objects.iterdir()}
    if damage == "no marker":
        (objects / "complete.json").unlink()
    elif damage == "cut":
        (objects / "train.ids.bin").write_bytes(b"short")
    else:
        (objects / "meta.json").write_bytes(before["meta.json"].replace(b"train", b"tra1n", 1))
    capsys.readouterr()
    assert preparation.run() == first
    assert "StageStarted" in kinds(capsys.readouterr().out)
    assert {path.name: path.read_bytes() for path in objects.iterdir()} == before


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
        (("dataset", "sources"), [{"path": "/no/such/rows.jsonl"}], "InvalidData", "/no/such/rows.jsonl"),
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
    preparation.spec["dataset"]["sources"] = [{"path": str(tmp_path / "rows.jsonl")}]
    code, result = preparation.run()
    assert (code, result.reason) == (2, "InvalidData")
    assert f"{tmp_path}/rows.jsonl" in str(result.message)
    assert not (tmp_path / "storage/prepared").exists()


FULL = OSError(errno.ENOSPC, "No space left on device")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FULL,
            "there is no room on the pod's disk ([Errno 28] No space left on device); raise ephemeral-storage in spec.cpuPods.resources",
        ),
        # As the rooms of data and models say it: each takes an OSError for something that lasts, or for the network.
        (caused(InvalidData("rows: can't be read"), FULL), "there is no room on the pod's disk"),
        (caused(ModelUnreachable("can't be fetched from the Hub"), OSError("Not enough disk space. Needed: 3 GB")), "no room on the pod's"),
        (RuntimeError("Task error: No space left on device (os error 28)"), "there is no room on the pod's disk"),
        (caused(StorageFailed("prepared data can't be written; make room there"), FULL), "prepared data can't be written; make room there"),
    ],
)
def test_a_full_disk_is_said_and_tried_again(error: Exception, message: str) -> None:
    result = failed_result(error)
    assert (result.reason, result.permanent, result.exit_code) == ("StorageFailed", False, 1)
    assert message in str(result.message)


# A limit on the size of files stands for a scratch without room: both end in a short write and an OSError. It holds for a process.
LIMITED = """
import resource, sys
from pathlib import Path
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.pods.prepare import prepared
folder = Path(sys.argv[1])
pod = Pod(scratch=folder / "pod", job_file=folder / "job.json", termination_log=folder / "termination-log")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
sys.exit(run_stage(prepared, pod))
"""


def test_a_scratch_without_room_ends_with_words(preparation: Preparation, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(preparation.job))
    ended = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path), "4096"], stdout=subprocess.DEVNULL)
    result = parse_pod_result((tmp_path / "termination-log").read_text())
    assert result is not None
    assert (ended.returncode, result.reason, result.permanent) == (1, "StorageFailed", False)
    assert f"prepared data can't be written to {tmp_path}/pod/run/prepared" in str(result.message)
    assert "make room there" in str(result.message)
    assert not list((tmp_path / "storage").rglob("complete.json"))
    assert preparation.run()[0] == 0, "the next pod has room"


@pytest.fixture
def bucket(preparation: Preparation, s3: S3Server, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Storage and base model of the job in a bucket, which a proxy is in front of. The model has weights of 4 MiB."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    model = open_storage(f"{url}/base", endpoint=s3.endpoint)
    save_file({"model.embed_tokens.weight": np.zeros((1024, 1024), np.float32)}, preparation.folder / "model.safetensors")
    for path in (*tiny.model.iterdir(), preparation.folder / "model.safetensors"):
        model.put_file(path.name, path)
    with faulty_proxy(s3.endpoint) as proxy:
        preparation.spec["model"] = {"name": f"{url}/base"}
        preparation.spec["checkpoints"] = {"storage": f"{url}/run", "endpoint": proxy.endpoint}
        yield proxy


def test_weights_in_a_bucket_are_not_fetched(preparation: Preparation, bucket: Proxy, tmp_path: Path) -> None:
    whole = Fault(match=r"HEAD .*/base/model\.safetensors", action="refuse", times=0)  # counts: a file is measured before it is fetched
    bucket.faults.append(whole)
    code, result = preparation.run()
    assert (code, result.outcome) == (0, "Done")
    assert result.preparation is not None
    assert result.preparation.model_shape.parameters == 1024 * 1024
    assert whole.seen == 0
    assert list((tmp_path / "pod-1").rglob("*.safetensors")) == []


@pytest.mark.parametrize("request_", [r"GET .*prefix=[^&]*base", r"PUT .*/prepared/"], ids=["before the model", "in the upload"])
def test_a_bucket_that_goes_away_in_the_middle_is_tried_again(preparation: Preparation, bucket: Proxy, request_: str) -> None:
    """It answered when the pod began: no setting is wrong, and the job must not end for it."""
    bucket.faults.append(Fault(match=request_, action="lose", times=100))
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (1, "StorageFailed", False)
    assert f"no answer from {bucket.endpoint}" in str(result.message)
    bucket.faults.clear()
    assert preparation.run()[0] == 0


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
    hub.faults.append(HubFault("/api/models/", "status", times=100))
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (1, "InvalidModel", False)
    assert "can't be fetched from the Hub" in str(result.message)


def test_a_licence_that_is_not_accepted_is_told_with_its_link(preparation: Preparation, hub: HubServer) -> None:
    hub.create("org/gated", {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"-"}).gated = True
    preparation.spec["model"] = {"name": "org/gated"}
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (2, "InvalidModel", True)
    assert f"accept its licence at {hub.url}/org/gated" in str(result.message)


def test_a_token_that_may_only_read_is_refused_before_training(
    preparation: Preparation, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    preparation.spec["publish"] = {"hub": {"repository": "org/tiny"}}
    code, result = preparation.run()
    assert (code, result.reason, result.permanent) == (2, "InvalidPublication", True)
    assert "may only read" in str(result.message)
    assert "hf_read" not in str(result.message)
