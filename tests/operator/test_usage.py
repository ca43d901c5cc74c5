"""GPU hours by pod, from binding to end: what is counted, until when, and that it is counted once."""

from typing import Any

import pytest

from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared, running

CLUSTER = "starchat-1-abcde"
NO_GPUS = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def half_started(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """The head and one of two workers, 8 GPUs each, are bound and run; the scheduler has no node for the other."""
    prepared(world, kubelet, **spec)
    half_started_attempt(kubelet, 1)
    world.settle()


def half_started_attempt(kubelet: Kubelet, number: int) -> None:
    name = f"starchat-{number}"
    kubelet.rayjob(name, "Initializing")
    kubelet.ray_pod(f"{name}-abcde", 0, keys.HEAD_CONTAINER, bound=kubelet.timestamp())
    kubelet.ray_pod(f"{name}-abcde", 1, keys.WORKER_CONTAINER, bound=kubelet.timestamp())
    kubelet.ray_pod(f"{name}-abcde", 2, keys.WORKER_CONTAINER, unschedulable=NO_GPUS)


def gpu_hours(world: World) -> float:
    return float((world.status.get("usage") or {}).get("gpuHours", 0.0))


def attempt(world: World, number: int = 1) -> dict[str, Any]:
    return next(found for found in world.status["attempts"] if found["number"] == number)


def remove_pod(world: World, number: int) -> None:
    world.api.remove(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-{number}")


def change_pod(world: World, number: int, **parts: Any) -> None:
    world.api.change(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-{number}", **parts)


def test_pods_of_an_attempt_that_never_begins_count_from_their_binding(world: World, kubelet: Kubelet) -> None:
    half_started(world, kubelet, workers={"startDeadlineSeconds": 1800})
    assert "runningTime" not in attempt(world)
    assert [(pod["name"], pod.get("gpus")) for pod in attempt(world)["pods"]] == [(f"{CLUSTER}-0", None), (f"{CLUSTER}-1", 8)]
    world.clock.advance(1800)
    world.settle()
    assert attempt(world)["outcome"] == "NotStarted"
    assert gpu_hours(world) == pytest.approx(4.0)
    world.clock.advance(90)
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    assert gpu_hours(world) == pytest.approx(4.0 + 8 * 90 / 3600), "it held them until it was gone"
    assert attempt(world)["gpuHours"] == gpu_hours(world)
    assert not {"pods", "leaving"} & attempt(world).keys()


def test_a_pod_counts_from_its_binding_though_it_never_runs(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Initializing")
    bound = kubelet.timestamp()
    world.clock.advance(45)  # the watch was behind
    kubelet.ray_pod(CLUSTER, 1, keys.WORKER_CONTAINER, phase="Pending", bound=bound)
    world.settle()
    world.clock.advance(55)
    remove_pod(world, 1)
    world.settle()
    assert gpu_hours(world) == pytest.approx(8 * 100 / 3600, abs=1e-6)


def test_the_budget_ends_an_attempt_that_never_begins(world: World, kubelet: Kubelet) -> None:
    half_started(world, kubelet, budget={"gpuHours": 1}, workers={"startDeadlineSeconds": 1800})
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(450)
    world.clock.advance(451)
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    assert world.names(kinds.RAYJOBS) == []


def test_hours_are_told_while_an_attempt_runs(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    told = []
    for step in range(1, 5):
        world.clock.advance(900)
        kubelet.report(CLUSTER, outcome="Running", step=step)
        world.settle()
        told.append(gpu_hours(world))
    assert told == pytest.approx([4.0, 8.0, 12.0, 16.0])
    assert attempt(world)["gpuHours"] == gpu_hours(world)


def test_no_hour_is_counted_twice_however_often_the_operator_restarts(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    for step in range(1, 61):
        world.clock.advance(60)
        if step % 3 == 0:
            kubelet.report(CLUSTER, outcome="Running", step=step)
        if step % 2 == 0:
            world.restart()
        world.settle()
    kubelet.report(CLUSTER, outcome="Finished", step=60)
    kubelet.finish("starchat-1")
    world.settle()
    assert gpu_hours(world) == pytest.approx(16.0)


def test_nothing_is_written_while_nothing_happens(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    before = len(world.api.calls)
    for _ in range(5):
        world.clock.advance(10)
        world.look()
    assert len(world.api.calls) == before


def test_a_pod_that_ended_counts_to_the_end_of_its_containers(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.clock.advance(600)
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": kubelet.timestamp()}}
    world.clock.advance(30)
    change_pod(world, 1, status={"phase": "Failed", "containerStatuses": [{"name": keys.WORKER_CONTAINER, "state": ended}]})
    world.settle()
    assert attempt(world)["pods"][1]["until"] < kubelet.timestamp()
    assert gpu_hours(world) == pytest.approx(8 * (600 + 630) / 3600, abs=1e-6)
    world.clock.advance(3600)
    world.settle()
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    assert gpu_hours(world) == pytest.approx(8 * (600 + 630 + 3600) / 3600, abs=1e-6)


def test_a_pod_in_anothers_place_counts_for_itself(world: World, kubelet: Kubelet) -> None:
    half_started(world, kubelet)
    world.clock.advance(100)
    remove_pod(world, 1)
    kubelet.ray_pod(CLUSTER, 3, keys.WORKER_CONTAINER, bound=kubelet.timestamp())
    world.settle()
    world.clock.advance(200)
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    assert gpu_hours(world) == pytest.approx(8 * 300 / 3600, abs=1e-6)


def test_a_pod_on_a_dead_node_counts_until_it_should_have_ended(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.clock.advance(600)
    due = {"metadata": {"deletionTimestamp": kubelet.timestamp()}}
    for number in (0, 1, 2):
        change_pod(world, number, **due)
    world.change(suspend=True)
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    world.clock.advance(24 * 3600)
    world.restart()
    world.settle()
    assert gpu_hours(world) == pytest.approx(16 * 600 / 3600, abs=1e-6)


def test_pods_that_commit_a_checkpoint_after_the_job_has_failed_count(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"activeDeadlineSeconds": 600})
    world.clock.advance(601)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    world.clock.advance(200)
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    assert gpu_hours(world) == pytest.approx(16 * 801 / 3600, abs=1e-6)
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


def test_pods_that_nobody_saw_go_count_no_longer_than_their_driver_spoke(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.clock.advance(600)
    kubelet.report(CLUSTER, outcome="Running", step=3)
    world.settle()
    kubelet.remove_ray_pods(CLUSTER)
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.clock.advance(8 * 3600)
    world.restart()
    world.settle()
    assert gpu_hours(world) == pytest.approx(16 * 720 / 3600, abs=1e-6)


def test_pods_that_an_operator_of_before_entered_count_from_their_binding(world: World, kubelet: Kubelet) -> None:
    """What the chart of 038631c or of the day after it left of an attempt that runs."""
    running(world, kubelet)
    for kept in (None, [{"name": f"{CLUSTER}-{number}", "node": "node-1"} for number in range(3)]):
        job = world.job
        found = job["status"]["attempts"][0]
        for name in ("pods", "workerPods", "gpuHours", "countedTime"):
            found.pop(name, None)
        job["status"].pop("usage", None)
        if kept:
            found["pods"] = kept
        world.api.put(kinds.FINETUNEJOBS, job)
        world.restart()
        world.clock.advance(900)
        kubelet.report(CLUSTER, outcome="Running", step=1 if kept else 2)
        world.settle()
    assert gpu_hours(world) == pytest.approx(16 * 1800 / 3600, abs=1e-6)


def test_workers_on_cpus_hold_no_gpus(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, workers={"gpusPerNode": 0, "workersPerNode": 2, "device": "cpu"})
    world.clock.advance(3600)
    kubelet.report(CLUSTER, outcome="Running", step=1)
    world.settle()
    assert gpu_hours(world) == 0.0
