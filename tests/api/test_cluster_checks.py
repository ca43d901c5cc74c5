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
TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
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
        {"publish": {"hub": {"repository": "a/b"}}, "checkpoints": STORAGE, "cpuPods": {"env": [TOKEN]}},
        {"publish": {"hub": {"repository": "a/b"}}, "checkpoints": STORAGE, "cpuPods": {"envFrom": [{"secretRef": {"name": "hub"}}]}},
        {"workers": {"resources": DEVICES}, "checkpoints": STORAGE},
        {"workers": {"volumes": [{**CLAIM, "mountPath": "/tmp/inner"}]}, "checkpoints": STORAGE},
        {"workers": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "OMP_NUM_THREADS", "value": "4"}]}, "checkpoints": STORAGE},
        {"workers": {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}}, "checkpoints": STORAGE},
        {"workers": {"affinity": {"podAntiAffinity": {REQUIRED: []}}}, "checkpoints": STORAGE},
        {"evaluation": {"tasks": ["arc_challenge"], "taskData": "/data/tasks"}, "cpuPods": {"volumes": [CLAIM]}, "checkpoints": STORAGE},
        {"evaluation": {"tasks": ["mmlu"], "taskData": "/data/x", "pod": {"gpus": 1, "volumes": [CLAIM]}}, "checkpoints": STORAGE},
        {"evaluation": {"judge": {"model": "m", "prompts": "org/prompts"}, "samples": {}}, "checkpoints": STORAGE},
        {
            "checkpoints": {"storage": "/data/x"},
            "workers": {"volumes": [CLAIM]},
            "cpuPods": {"volumes": [CLAIM]},
            "evaluation": {"samples": {"prompts": "/tasks/p.jsonl"}, "pod": {"volumes": [{**CLAIM, "name": "t", "mountPath": "/tasks"}]}},
        },
    ],
)
def test_what_a_cluster_does_not_refuse(spec):
    assert cluster_problems(job(**spec)) == []


@pytest.mark.parametrize("pods", ["workers", "cpuPods"])
@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password", "KEY", "KEY_FILE_PASSWORD"])
def test_a_secret_as_plain_text_is_refused_with_the_way_to_give_it(name, pods):
    wanted = job(checkpoints=STORAGE, **{pods: {"env": [{"name": "A", "value": "1"}, {"name": name, "value": "hidden"}]}})
    (problem,) = cluster_problems(wanted)
    assert problem.field == f"spec.{pods}.env[1].value"
    assert all(word in problem.remedy for word in ("valueFrom.secretKeyRef", "envFrom"))
    assert "hidden" not in str(problem)


@pytest.mark.parametrize(
    "variable",
    [
        *({"name": name, "value": "x"} for name in ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "HF_TOKEN_PATH", "TLS_KEY_FILE", "MONKEY")),
        *({"name": "HF_TOKEN", **given} for given in ({}, {"value": ""}, {"value": "$(HUB)"})),
        TOKEN,
    ],
)
def test_what_is_no_secret_or_not_as_plain_text(variable):
    assert cluster_problems(job(checkpoints=STORAGE, cpuPods={"env": [variable]})) == []


def test_a_slice_of_a_gpu_has_a_slice_of_its_memory():
    whole = cluster_plan(job(checkpoints=STORAGE), STARCODERBASE, data_shape())
    assert whole.memory is not None
    with pytest.raises(InvalidSpec, match=r"nvidia-a100-80gb \(nvidia.com/mig-3g.40gb\) has 37.3 GiB"):
        cluster_plan(job(checkpoints=STORAGE, workers={"gpuResource": "nvidia.com/mig-3g.40gb"}), STARCODERBASE, data_shape())


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
