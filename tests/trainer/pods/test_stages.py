"""The three stages as the commands that pods run, one after the other on this machine, with a Ray that was started beside them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET, Tiny
from tests.trainer.pods.stages import Stages, lines

from finetune_api.jobfile import parse_job
from finetune_trainer.pods.pod import run_stage
from finetune_trainer.pods.prepare import prepared
from finetune_trainer.pods.publish import published

pytestmark = [pytest.mark.training, pytest.mark.timeout(1200)]

TOTAL_STEPS = 16


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
    stages.freeze(job)

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
