"""Attempts that run out of memory: the next one runs with half the micro-batch and the same steps, told and remembered."""

from typing import Any

import pytest

from finetune_api.training_run import TrainingRun
from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared

GPU_FULL = {"outcome": "Failed", "reason": "OutOfMemory", "message": "rank 3: CUDA out of memory"}


def begin(world: World, kubelet: Kubelet, number: int) -> None:
    kubelet.rayjob(f"starchat-{number}", "Running", job="RUNNING")
    kubelet.ray_pods(f"starchat-{number}-abcde")
    world.settle()


def fail(world: World, kubelet: Kubelet, number: int, **report: Any) -> None:
    """The attempt runs and fails so; the next begins."""
    begin(world, kubelet, number)
    kubelet.report(f"starchat-{number}-abcde", step=4, **report)
    kubelet.finish(f"starchat-{number}", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()


def frozen(world: World, number: int) -> TrainingRun:
    """What the attempt's RayJob mounts."""
    rayjob = world.api.objects["rayjobs", builders.NAMESPACE, f"starchat-{number}"]
    mounted = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    names = [volume["configMap"]["name"] for volume in mounted if "configMap" in volume]
    (name,) = names
    return TrainingRun.from_json(world.api.objects["configmaps", builders.NAMESPACE, name]["data"]["run.json"])


def test_the_next_attempt_runs_with_half_the_micro_batch_and_the_same_steps(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, training={"microBatchSize": 4})
    first = frozen(world, 1)
    fail(world, kubelet, 1, **GPU_FULL)
    second = frozen(world, 2)
    assert (first.plan.micro_batch_size, first.plan.micro_steps) == (4, 4)
    assert (second.plan.micro_batch_size, second.plan.micro_steps) == (2, 8)
    assert second.job.spec.training.micro_batch_size == 2
    assert (second.plan.global_batch_size, second.plan.total_steps) == (first.plan.global_batch_size, first.plan.total_steps)
    assert (second.identity, second.data) == (first.identity, first.data), "its checkpoints are the same run's"
    ended, runs = world.status["attempts"]
    assert (ended["reason"], ended["charged"], ended["microBatchSize"], runs["microBatchSize"]) == ("OutOfMemory", True, 4, 2)
    assert ended["message"].startswith("rank 3: CUDA out of memory; attempts run with 2 rows a micro-step in place of 4")
    assert world.status["adjusted"]["microBatchSize"] == 2
    assert world.status["plan"]["microBatchSize"] == 2
    assert world.job["spec"]["training"]["microBatchSize"] == 4, "the operator never writes a spec"


def test_it_is_remembered_halved_again_and_never_below_one(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, training={"microBatchSize": 4}, failurePolicy={"maxFailures": 9})
    fail(world, kubelet, 1, **GPU_FULL)
    world.restart()
    fail(world, kubelet, 2, outcome="Failed", reason="TrainingFailed", message="a worker died")
    fail(world, kubelet, 3, **GPU_FULL)
    fail(world, kubelet, 4, **GPU_FULL)
    assert [attempt["microBatchSize"] for attempt in world.status["attempts"]] == [4, 2, 2, 1, 1]
    assert "a micro-step has 1 row already" in world.status["attempts"][3]["message"]
    kubelet.train("starchat-5")
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_a_job_that_asks_for_it_is_tried_as_it_is(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, training={"microBatchSize": 4}, failurePolicy={"halveMicroBatchSize": False})
    fail(world, kubelet, 1, **GPU_FULL)
    assert frozen(world, 2).plan.micro_batch_size == 4
    assert "adjusted" not in world.status


@pytest.mark.parametrize(
    ("number", "workers", "micro"),
    [(1, {"gpusPerNode": 0, "workersPerNode": 8}, 2), (1, {}, 4), (0, {"gpusPerNode": 0, "workersPerNode": 8}, 4)],
    ids=["a worker on CPUs", "a worker with GPUs", "the head"],
)
def test_memory_of_a_pod_is_the_micro_batchs_only_where_ranks_compute_in_it(
    world: World, kubelet: Kubelet, number: int, workers: dict[str, Any], micro: int
) -> None:
    prepared(world, kubelet, training={"microBatchSize": 4}, workers=workers)
    begin(world, kubelet, 1)
    kubelet.report("starchat-1-abcde", outcome="Running", step=4)
    kubelet.ray_pod("starchat-1-abcde", number, keys.WORKER_CONTAINER if number else keys.HEAD_CONTAINER, exit_code=137)
    pod = next(one for one in world.api.of(kinds.PODS) if one["metadata"]["name"] == f"starchat-1-abcde-{number}")
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    world.api.put(kinds.PODS, pod)
    world.settle()
    fail_words = {"outcome": "Failed", "reason": "TrainingFailed", "message": "worker 1 of the run died"}
    kubelet.report("starchat-1-abcde", step=4, **fail_words)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()
    assert world.status["attempts"][0]["reason"] == "OutOfMemory"
    assert "ran out of memory" in world.status["attempts"][0]["message"]
    assert frozen(world, 2).plan.micro_batch_size == micro
