"""`finetune logs` of a run whose pods are gone: what its storage keeps."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.demo.s3_server import S3Server
from tests.cli.conftest import Finetune
from tests.conftest import BUCKET

from finetune_api.status import FineTuneJobStatus
from finetune_cli.cluster import logs
from finetune_cli.environment_storage import open_from_environment
from finetune_client import Job
from finetune_client.logs import LogGone
from finetune_trainer.storage.directory import DirectoryStorage

PRINTED = {
    "logs/preparation/tiny-prepare-0a-x1/main/000000000000.log": b"rows are tokenised\n",
    "logs/training/20261129T100000Z-tiny-1-aaaaa/driver/000000000000.log": b"first attempt\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/driver/000000000000.log": b"step 1\nstep 2\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/driver/000000000014.log": b"step 3\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/rank-0/000000000000.log": b"rank 0 speaks\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/rank-0-stderr/000000000000.log": b"rank 0 warns\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/ray-raylet/000000000000.log": b"a worker died\n",
    "logs/training/20261129T110000Z-tiny-2-bbbbb/driver/began.json": b'{"time": "2026-11-29T11:00:00+00:00"}',
    "logs/training/20261129T110000Z-tiny-2-bbbbb/rank-0/ended.json": b'{"outcome": "Done"}',
    "logs/training/20261129T100000Z-tiny-1-aaaaa/driver/began.json": b'{"time": "2026-11-29T10:00:00+00:00"}',
    "logs/training/20261129T100000Z-tiny-1-aaaaa/driver/ended.json": b"""{"time": "2026-11-29T10:02:30+00:00", "outcome": "Failed",
        "reason": "OutOfMemory", "message": "rank 3 [ran] out\\nof memory", "exitCode": 1}""",
    "logs/training/20261129T100000Z-tiny-1-aaaaa/metrics.jsonl": b"{}\n",
    "logs/training/20261129T100000Z-tiny-1-aaaaa/driver/of-somebody-else": b"",
    "logs/elsewhere": b"",
    "metrics.jsonl": b"{}\n{}\n",
}


@pytest.fixture
def run(tmp_path: Path) -> str:
    storage = DirectoryStorage(tmp_path / "bucket")
    for key, data in PRINTED.items():
        storage.put(key, data)
    return str(tmp_path / "bucket")


@pytest.mark.parametrize(
    ("options", "out"),
    [
        (("--stage", "training"), "step 1\nstep 2\nstep 3\n"),
        (("--tail", "1"), "step 3\n"),
        (("--tail", "1", "--json"), '{"line": "step 3"}\n'),
        (("--attempt", "1"), "first attempt\n"),
        (("--rank", "0"), "rank 0 speaks\nrank 0 warns\n"),
        (("--source", "ray-raylet"), "a worker died\n"),
        (("--stage", "preparation"), "rows are tokenised\n"),
    ],
)
def test_what_is_kept(finetune: Finetune, run: str, options: tuple[str, ...], out: str) -> None:
    assert finetune("logs", run, *options) == (0, out, "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--attempt", "3"), "keeps no log of attempt 3; choose one of 1, 2"),
        (("--rank", "4"), "keeps no log of rank-4; there are driver, rank-0, ray-raylet"),
        (("--source", "ray-gcs", "--attempt", "1"), "keeps no log of ray-gcs; there are driver"),
        (("--stage", "publication"), "keeps no log of publication; there are logs of preparation, training"),
        (("--source", "driver", "--rank", "0"), "--rank 0 and --source driver are two logs; leave one of them out"),
        (("--list", "--rank", "0"), "--list lists logs and prints none"),
        (("--list", "--follow"), "--follow is for the log of a job's pod"),
        (("--follow",), "--follow is for the log of a job's pod"),
        (("--rank", "0", "--stage", "preparation"), "--rank 0 is of training, and --stage preparation has none"),
    ],
)
def test_what_is_not_there_is_told(finetune: Finetune, run: str, options: tuple[str, ...], told: str) -> None:
    code, out, err = finetune("logs", run, *options)
    assert (code, out) == (2, "")
    assert told in err


def test_what_is_kept_is_listed_with_how_it_ended(finetune: Finetune, run: str) -> None:
    code, out, err = finetune("logs", run)
    assert (code, err) == (0, "")
    head, preparation, first, second, metrics = ([word.strip() for word in line.split("  ") if word.strip()] for line in out.splitlines())
    assert head == ["STAGE", "ATTEMPT", "BEGAN", "TOOK", "ENDED", "SIZE", "LOGS"]
    assert preparation == ["preparation", "1", "19 B", "main"]
    told = "Failed (1), OutOfMemory, rank 3 [ran] out"
    assert first == ["training", "1", "2026-11-29 10:00:00", "2 min 30 s", told, "17 B", "driver"]
    killed = "no end: it runs, or was killed"
    assert second == ["training", "2", "2026-11-29 11:00:00", killed, "62 B", "driver, rank-0, ray-raylet"]
    assert metrics == [f"{run}/metrics.jsonl: 6 B"]


def test_an_attempt_is_listed_log_by_log(finetune: Finetune, run: str) -> None:
    _, out, _ = finetune("logs", run, "--attempt", "1", "--list", "--json")
    listed = json.loads(out)
    assert listed["storage"] == run
    [log] = listed["kept"]
    assert log == {
        "stage": "training",
        "attempt": 1,
        "name": "20261129T100000Z-tiny-1-aaaaa",
        "log": "driver",
        "bytes": 14,
        "began": "2026-11-29T10:00:00+00:00",
        "ended": "2026-11-29T10:02:30+00:00",
        "outcome": "Failed",
        "reason": "OutOfMemory",
        "message": "rank 3 [ran] out\nof memory",
        "exitCode": 1,
        "logs": {"driver": 14},
        "files": {"metrics.jsonl": 3},
    }
    _, out, _ = finetune("logs", run, "--attempt", "2", "--list")
    assert [line.split()[-1] for line in out.splitlines()] == ["LOG", "driver", "rank-0", "ray-raylet"]
    assert "Done" in out.splitlines()[2]


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same in a bucket, and its keys in the environment."""
    for name, value in (("AWS_ENDPOINT_URL", s3.endpoint), ("AWS_ACCESS_KEY_ID", s3.access_key), ("AWS_SECRET_ACCESS_KEY", s3.secret_key)):
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    storage = open_from_environment(url, "NAME")
    for key, data in PRINTED.items():
        storage.put(key, data)
    return url


def test_a_run_in_a_bucket(finetune: Finetune, bucket: str) -> None:
    assert finetune("logs", bucket, "--attempt", "1") == (0, "first attempt\n", "")
    assert "Failed (1), OutOfMemory" in finetune("logs", bucket)[1]


@dataclass(frozen=True)
class Cluster:
    """A client of a cluster on which no pod of the job is left."""

    job: Job

    def get_job(self, name: str) -> Job:
        assert name == self.job.name
        return self.job

    def get_job_logs(self, name: str, **options: object) -> Iterator[str]:
        raise LogGone(f"no pod is left that tells of FineTuneJob {name}")
        yield


def test_a_job_whose_pods_are_gone(finetune: Finetune, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a head ended that was killed, the operator alone knows."""
    attempts = [{"number": 1, "outcome": "Failed"}, {"number": 2, "outcome": "NodeLost", "reason": "NodeLost"}]
    status = FineTuneJobStatus.model_validate({"attempts": attempts})
    job = Job(name="tiny", namespace="ml", uid="1", created="", spec={"checkpoints": {"storage": bucket}}, status=status)
    monkeypatch.setattr(logs, "client_of", lambda _namespace, _context: Cluster(job))
    assert finetune("logs", "tiny") == (0, "step 1\nstep 2\nstep 3\n", "")
    assert finetune("logs", "tiny", "--attempt", "1") == (0, "first attempt\n", "")
    assert finetune("logs", "tiny", "--rank", "0") == (0, "rank 0 speaks\nrank 0 warns\n", "")
    _, out, _ = finetune("logs", "tiny", "--list", "--json")
    assert [log["outcome"] for log in json.loads(out)["kept"]] == [None, "Failed", "NodeLost, NodeLost"]


def test_a_folder_without_logs(finetune: Finetune, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = finetune("logs", "./empty")
    assert code == 2
    assert "keeps no log of any stage" in err
