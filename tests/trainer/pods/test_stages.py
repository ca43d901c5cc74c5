"""The three stages as the commands that pods run, one after the other on this machine, with a Ray that was started beside them."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET, Tiny

from finetune_api.jobfile import parse_job
from finetune_api.plan import plan
from finetune_api.pod_result import PodResult, parse_pod_result
from finetune_api.training_run import TrainingRun, run_identity
from finetune_trainer.launch.process_group import free_port
from finetune_trainer.pods.pod import Pod, run_stage
from finetune_trainer.pods.prepare import prepared
from finetune_trainer.pods.publish import published

pytestmark = [pytest.mark.training, pytest.mark.timeout(1200)]

TOTAL_STEPS = 16


@pytest.fixture
def ray_environment(s3: S3Server) -> Iterator[dict[str, str]]:
    """A head as KubeRay starts one, gone afterwards; the variables with which a driver finds it."""
    with tempfile.TemporaryDirectory(prefix="ft-ray-") as folder:
        environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": folder,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }
        port = free_port()
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        command += [f"--port={port}", f"--temp-dir={folder}/ray", "--include-dashboard=false"]
        with open(f"{folder}/ray.log", "wb") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            os.killpg(head.pid, signal.SIGKILL)  # all that it started; told to stop, it takes half a minute
            head.wait()


@dataclass(frozen=True)
class Stages:
    """One job's files, as a pod would have them."""

    folder: Path
    environment: dict[str, str]

    def pod(self) -> Pod:
        return Pod(
            scratch=self.folder / "scratch",
            job_file=self.folder / "job.json",
            run_file=self.folder / "run.json",
            termination_log=self.folder / "termination-log",
        )

    def result(self) -> PodResult:
        found = parse_pod_result((self.folder / "termination-log").read_text())
        assert found is not None
        return found

    @contextlib.contextmanager
    def training(self) -> Iterator["subprocess.Popen[str]"]:
        """The driver's command; ended with the block."""
        environment = self.environment | {"FINETUNE_RUN": str(self.pod().run_file), "FINETUNE_SCRATCH": str(self.pod().scratch)}
        command = [sys.executable, "-m", "finetune_trainer.pods", "train"]
        with (self.folder / "train.err").open("ab") as errors:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def lines(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """Events in the log of the driver."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def test_prepared_stopped_trained_and_published(
    s3: S3Server, tiny: Tiny, tmp_path: Path, ray_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparation's result is enough to freeze the run; preStop commits a checkpoint; publication needs nothing of the driver's pod."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, ray_environment[name])
    spec = yaml.safe_load(tiny.job.read_text())["spec"]
    spec["model"]["name"] = str(tiny.model)
    spec["dataset"]["sources"] = [{"path": str(tiny.dialogues)}]
    spec["training"] |= {"epochs": None, "maxSteps": TOTAL_STEPS}
    spec["checkpoints"] = {"storage": f"s3://{BUCKET}/stages", "endpoint": s3.endpoint, "every": {"steps": 1000}}
    spec["publish"] = {"directory": {"path": str(tmp_path / "published")}}
    raw = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "stages"}, "spec": spec}
    job = parse_job(raw)
    (tmp_path / "job.json").write_text(json.dumps(raw))
    stages = Stages(tmp_path, ray_environment)

    assert run_stage(prepared, stages.pod()) == 0
    assert run_stage(prepared, stages.pod()) == 0, "a preparation that runs again finds what it left"
    found = stages.result().preparation
    assert found is not None
    run = TrainingRun(
        job=job,
        identity=run_identity(job),
        model_revision=found.model_revision,
        model_shape=found.model_shape,
        vocabulary=found.vocabulary,
        data=found.data,
        plan=plan(job, found.model_shape, found.data),
    )
    (tmp_path / "run.json").write_text(run.to_json())

    with stages.training() as process:
        done = 0
        for event in lines(process):
            if event.get("kind") == "StepDone" and event["step"] == 2:
                before_stop = [sys.executable, "-m", "finetune_trainer.pods", "before-stop"]
                assert subprocess.run(before_stop, env=stages.environment, timeout=120).returncode == 0
            done = event["step"] if event.get("kind") == "CheckpointCommitted" else done
        assert process.wait() == 3, (tmp_path / "train.err").read_text()[-3000:]
    assert 2 <= done < TOTAL_STEPS

    with stages.training() as process:
        events = list(lines(process))
        assert process.wait() == 0, (tmp_path / "train.err").read_text()[-3000:]
    assert [event["step"] for event in events if event.get("kind") == "Resumed"] == [done]
    assert [event["step"] for event in events if event.get("kind") == "StepDone"] == list(range(done + 1, TOTAL_STEPS + 1))

    elsewhere = replace(stages.pod(), scratch=tmp_path / "another-node")
    assert run_stage(published, elsewhere) == 0
    publication = stages.result().publication
    assert publication is not None
    assert publication.step == TOTAL_STEPS
    assert (tmp_path / "published/model.safetensors").is_file()
