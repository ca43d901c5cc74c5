import re

import pytest
from tests.api.jobs import STARCODERBASE, job

from finetune_api.errors import InvalidSpec
from finetune_api.plan import Machine, cluster_plan, plan

GIB = 2**30


def refusal(machine=None, **spec):
    with pytest.raises(InvalidSpec) as caught:
        plan(job(**spec), STARCODERBASE, None, machine)
    (found,) = caught.value.problems
    return str(found)


def test_the_numbers_are_told():
    found = refusal(workers={"accelerator": "nvidia-a100-40gb"})
    assert found.startswith("spec.workers: a worker needs 45.2 GiB (Adam moments, partitioned 14.5, optimizer's update 7.5,")
    assert "nvidia-a100-40gb has 40.0 GiB; use workers.nodes: 2 (27.4 GiB)" in found


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ({"training": {"microBatchSize": 32}, "workers": {"accelerator": "nvidia-rtx-a6000"}}, "training.microBatchSize: 8 "),
        ({"training": {"activationCheckpointing": False, "microBatchSize": 8}}, "training.microBatchSize: 4 "),
        ({"training": {"activationCheckpointing": False, "microBatchSize": 8}}, "training.activationCheckpointing: true "),
        ({"workers": {"accelerator": "nvidia-l4"}}, "workers.nodes: 4 "),
        ({"workers": {"accelerator": "nvidia-l4"}}, "workers.accelerator: nvidia-rtx-a6000 (45.2 of 48.0 GiB)"),
        ({"workers": {"gpusPerNode": 1}}, "workers.gpusPerNode: 8 (45.2 GiB)"),
        ({"workers": {"gpusPerNode": 1}}, "workers.nodes: "),
        ({"workers": {"gpusPerNode": 1}}, "training.method: lora ("),
        ({"workers": {"gpusPerNode": 1, "accelerator": "nvidia-l4"}}, "training.method: qlora ("),
        (
            {"workers": {"gpusPerNode": 2, "accelerator": "nvidia-l4"}, "training": {"precision": "fp32"}},
            "training.method: qlora with training.sharding: zero2 ",
        ),
        ({"training": {"sharding": "zero2"}, "workers": {"accelerator": "nvidia-rtx-a6000"}}, "training.sharding: zero3 ("),
        (
            {"workers": {"gpusPerNode": 1, "accelerator": "nvidia-a100-40gb"}, "training": {"globalBatchSize": 64, "microBatchSize": 4}},
            "workers.gpusPerNode: 8 with workers.nodes: 2 (27.4 GiB)",
        ),
    ],
)
def test_the_nearest_setting_that_fits_is_named(spec, remedy):
    assert remedy in refusal(**spec)


@pytest.mark.parametrize(
    "spec",
    [
        {"training": {"microBatchSize": 32}, "workers": {"accelerator": "nvidia-rtx-a6000"}},
        {"training": {"activationCheckpointing": False, "microBatchSize": 8}},
        {"workers": {"accelerator": "nvidia-l4"}},
        {"workers": {"gpusPerNode": 1}},
        {"workers": {"gpusPerNode": 1, "accelerator": "nvidia-l4"}},
        {"workers": {"gpusPerNode": 1, "accelerator": "nvidia-t4"}, "training": {"precision": "fp32"}},
        {"workers": {"gpusPerNode": 2, "accelerator": "nvidia-l4"}, "training": {"precision": "fp32"}},
        {"workers": {"accelerator": "nvidia-a100-40gb"}, "training": {"globalBatchSize": 96}},
    ],
)
def test_what_is_named_really_fits(spec):
    """Each remedy, taken, gives a plan."""
    remedies = refusal(**spec).split("; use ", 1)[1].split(" or ")
    for remedy in remedies:
        changed = {section: dict(values) for section, values in spec.items()}
        for path, value in re.findall(r"((?:training|workers)\.[\w.]+): ([\w-]+)", remedy):
            typed = {"true": True}.get(value, int(value) if value.isdecimal() else value)
            *above, name = path.split(".")
            place = changed
            for key in above:
                place = place.setdefault(key, {})
            place[name] = typed
        assert plan(job(**changed), STARCODERBASE, None).memory.total_bytes


def test_a_cpu_machine_that_is_too_small():
    found = refusal(Machine(memory_bytes=10 * GIB), workers={"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None})
    assert "its share of this machine's 10.0 GiB among 2 workers has 5.0 GiB; use a smaller model, or give each worker at least" in found


CPU_PODS = {"gpusPerNode": 0, "workersPerNode": 2, "accelerator": None}


def pods(memory):
    return job(workers={**CPU_PODS, "resources": {"limits": {"memory": memory}}}, checkpoints={"storage": "s3://bucket/run"})


def test_cpu_pods_are_compared_with_their_memory_limit():
    with pytest.raises(InvalidSpec) as caught:
        cluster_plan(pods("96Gi"), STARCODERBASE, None)
    (found,) = caught.value.problems
    assert "a worker needs" in str(found)
    assert "its share of its pod's 96.0 GiB (workers.resources.limits.memory) among 2 workers has 48.0 GiB" in str(found)
    assert cluster_plan(pods("300Gi"), STARCODERBASE, None).memory.capacity_bytes == 150 * GIB


def test_a_cpu_pod_without_a_limit_is_said_to_be_unknown():
    found = cluster_plan(job(workers=CPU_PODS, checkpoints={"storage": "s3://bucket/run"}), STARCODERBASE, None)
    assert ("whether it fits", True) in {(one.name, "workers.resources.limits.memory" in one.why) for one in found.unknown}


def test_a_model_that_no_gpu_holds_is_told_also_where_the_gpu_is_not_given():
    """70 B on one GPU."""
    large = STARCODERBASE.model_copy(update={"parameters": 70_000_000_000, "layers": 80, "hidden_size": 8192})
    found = plan(job(workers={"gpusPerNode": 1, "accelerator": None}), large, None)
    (why,) = [one.why for one in found.unknown if one.name == "whether it fits"]
    assert re.fullmatch(
        r"the GPU model is not given; set spec\.workers\.accelerator, .*; "
        r"a worker needs [\d.]+ GiB, more than any that we know has \(nvidia-b200: 179\.1\)",
        why,
    )
