"""What only planning refuses, each row with its words; and jobs for a cluster that it doesn't refuse."""

import pytest
from tests.api.jobs import STARCODERBASE, data_shape, job, lines, mapping
from tests.api.planning_refusals import REFUSALS, STORAGE

from finetune_api.cluster_checks import cluster_problems
from finetune_api.errors import InvalidSpec
from finetune_api.jobfile import parse_job
from finetune_api.plan import cluster_plan

CLAIM = {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}
DEVICES = {"requests": {"cpu": "500m", "rdma/hca": "1"}, "limits": {"cpu": "1", "rdma/hca": "1"}}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_planning_refuses(refusal):
    well_formed = parse_job(mapping(**merged({"checkpoints": STORAGE}, refusal.spec)))
    with pytest.raises(InvalidSpec) as caught:
        cluster_plan(well_formed, None, None)
    assert all(word in str(caught.value) for word in refusal.words), str(caught.value)
    assert len(caught.value.problems) == (2 if refusal.name in TOLD_TWICE else 1)
    assert "HIDDEN" not in str(caught.value)


# Once for the workers, once for the CPU pods.
TOLD_TWICE = ("storage-leaves-its-volume", "model-on-no-volume")


def merged(base, change):
    return {**base, **{name: {**base.get(name, {}), **value} for name, value in change.items()}}


def test_names_of_the_rows_are_names_of_jobs():
    names = [refusal.name for refusal in REFUSALS]
    assert len(set(names)) == len(names)
    for name in names:
        parse_job({**mapping(), "metadata": {"name": name}})


@pytest.mark.parametrize(
    "spec",
    [
        {"checkpoints": STORAGE},
        {"checkpoints": {"storage": "/data/x"}, "workers": {"volumes": [CLAIM]}, "cpuPods": {"volumes": [CLAIM]}},
        {"model": {"name": "/data/m"}, "checkpoints": STORAGE, "workers": {"volumes": [CLAIM]}, "cpuPods": {"volumes": [CLAIM]}},
        {"dataset": {"sources": [{"path": "/data/x"}]}, "checkpoints": STORAGE, "cpuPods": {"volumes": [{**CLAIM, "readOnly": True}]}},
        {"publish": {"directory": {"path": "/data/out"}}, "checkpoints": STORAGE, "cpuPods": {"volumes": [CLAIM]}},
        {"publish": {"hub": {"repository": "a/b", "tokenSecret": {"name": "hub"}}}, "checkpoints": STORAGE},
        {"publish": {"hub": {"repository": "a/b"}}, "checkpoints": STORAGE, "cpuPods": {"env": [{"name": "HF_TOKEN", "value": "t"}]}},
        {"workers": {"resources": DEVICES}, "checkpoints": STORAGE},
        {"workers": {"volumes": [{**CLAIM, "mountPath": "/tmp/inner"}]}, "checkpoints": STORAGE},
        {"workers": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "OMP_NUM_THREADS", "value": "4"}]}, "checkpoints": STORAGE},
        {"workers": {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}}, "checkpoints": STORAGE},
        {"workers": {"affinity": {"podAntiAffinity": {REQUIRED: []}}}, "checkpoints": STORAGE},
    ],
)
def test_what_a_cluster_does_not_refuse(spec):
    assert cluster_problems(job(**spec)) == []


def test_a_plan_needs_no_machine():
    """GPUs are those of workers.accelerator; what preparation finds makes the plan whole."""
    wanted = job(checkpoints=STORAGE)
    before, after = cluster_plan(wanted, None, None), cluster_plan(wanted, STARCODERBASE, data_shape())
    assert (before.device, before.precision, before.total_steps) == ("gpu", "bf16", None)
    assert {unknown.name for unknown in before.unknown} == {"memory", "steps and time"}
    assert after.total_steps == 87
    assert after.memory is not None
    assert after.memory.capacity_bytes is not None
    assert after.unknown == ()


def test_a_job_on_cpus_plans_without_a_machine():
    found = cluster_plan(job(checkpoints=STORAGE, workers={"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2, "nodes": 2}), None, None)
    assert (found.device, found.precision, found.world_size) == ("cpu", "fp32", 4)


def test_problems_of_planning_and_of_the_cluster_come_together_in_order():
    with pytest.raises(InvalidSpec) as caught:
        cluster_plan(job(model={"name": "./m"}, training={"globalBatchSize": 100}), None, None)
    assert [line.split(":")[0] for line in lines(caught.value)] == [
        "spec.model.name",
        "spec.training.globalBatchSize",
        "spec.checkpoints.storage",
    ]
