"""The samples: what a user applies first is valid, plans, and fits."""

from pathlib import Path

import pytest
from charts.generate import ROOT

from finetune_api.jobfile import load_job
from finetune_api.plan import assumed_data, plan
from finetune_cli.validate import problems_of

SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_valid(sample: Path) -> None:
    assert problems_of(sample, []) == []


def test_first_sample_asks_for_one_gpu_and_names_what_it_needs() -> None:
    path = ROOT / "manifests/samples/finetunejob.yaml"
    spec = load_job(path).spec
    assert spec.workers.world_size == 1
    assert spec.checkpoints.storage is not None
    assert spec.checkpoints.storage.startswith("s3://")
    assert spec.checkpoints.credentials_secret is not None
    assert spec.publish.hub is not None
    assert spec.publish.hub.token_secret is not None
    said = path.read_text(encoding="utf-8")
    for secret in (spec.checkpoints.credentials_secret.name, spec.publish.hub.token_secret.name):
        assert f"kubectl create secret generic {secret} " in said


def test_first_sample_runs_without_a_gpu_as_its_comment_says() -> None:
    changes = ["workers.device=cpu", "workers.gpusPerNode=0", "workers.workersPerNode=2", "checkpoints.endpoint=http://10.0.0.1:8333"]
    planned = plan(load_job(ROOT / "manifests/samples/finetunejob.yaml", changes), None, None)
    assert (planned.device, planned.world_size) == ("cpu", 2)


def test_two_by_eight_takes_the_steps_of_one_by_eight_and_fits() -> None:
    two = load_job(ROOT / "manifests/samples/starchat-alpha-2x8.yaml")
    one = load_job(ROOT / "examples/starchat-alpha.yaml")
    plans = [plan(job, job.spec.model.shape, assumed_data(7_440_000, 1024)) for job in (two, one)]
    assert (plans[0].nodes, plans[0].world_size) == (2, 16)
    assert plans[0].total_steps == plans[1].total_steps
    assert plans[0].memory is not None
    assert plans[0].memory.total_bytes < 80 * 2**30
