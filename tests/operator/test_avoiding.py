"""Nodes on which attempts fail: recorded, avoided after the second, for a day."""

import json
from typing import Any

import pytest

from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared

UNREADY = {"type": "Ready", "status": "False"}


def runs_on(world: World, kubelet: Kubelet, number: int, *nodes: str) -> str:
    """Attempt `number` runs: its head on a node of CPUs, its workers on these."""
    name, cluster = f"starchat-{number}", f"starchat-{number}-abcde"
    kubelet.rayjob(name, "Running", job="RUNNING")
    kubelet.ray_pod(cluster, 0, keys.HEAD_CONTAINER, node="cpu-1", bound=kubelet.timestamp())
    for worker, node in enumerate(nodes, start=1):
        kubelet.ray_pod(cluster, worker, keys.WORKER_CONTAINER, node=node, bound=kubelet.timestamp())
    world.settle()
    return cluster


def loses_a_node(world: World, kubelet: Kubelet, number: int, *nodes: str) -> None:
    """The last of the nodes stops answering under the attempt, and the next one begins."""
    cluster = runs_on(world, kubelet, number, *nodes)
    world.clock.advance(300)
    world.api.change(kinds.PODS, builders.NAMESPACE, f"{cluster}-{len(nodes)}", status={"conditions": [UNREADY]})
    world.settle()
    world.clock.advance(61)
    world.settle()
    kubelet.remove_ray_pods(cluster)
    world.settle()
    world.clock.advance(900)
    world.settle()


def avoided(world: World, number: int) -> list[str]:
    """What the RayJob's workers would rather not have."""
    cluster = world.api.objects["rayjobs", builders.NAMESPACE, f"starchat-{number}"]["spec"]["rayClusterSpec"]
    affinity = cluster["workerGroupSpecs"][0]["template"]["spec"].get("affinity") or {}
    terms = (affinity.get("nodeAffinity") or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return [node for term in terms for found in term["preference"]["matchExpressions"] for node in found["values"]]


def test_attempts_name_their_nodes_and_the_one_that_failed(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    loses_a_node(world, kubelet, 1, "gpu-1", "gpu-7")
    first = world.status["attempts"][0]
    assert (first["outcome"], first["nodes"], first["failedNode"]) == ("NodeLost", ["cpu-1", "gpu-1", "gpu-7"], "gpu-7")
    assert avoided(world, 2) == [], "once may be chance"


def test_a_node_that_failed_twice_is_avoided_and_that_is_told(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    for number in (1, 2):
        loses_a_node(world, kubelet, number, "gpu-1", "gpu-7")
    assert avoided(world, 3) == ["gpu-7"]
    assert world.status["attempts"][2]["avoidedNodes"] == ["gpu-7"]
    assert "avoids gpu-7, on which two attempts failed" in world.message("Trained")
    assert any(reason == "AttemptStarted" and "avoids gpu-7" in note for reason, note in world.events)
    runs_on(world, kubelet, 3, "gpu-1", "gpu-2")
    assert world.condition("Trained") == ("False", "Training")


def test_a_node_that_the_check_at_the_start_found_faulty_is_avoided_at_once_and_nobody_is_charged(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    cluster = runs_on(world, kubelet, 1, "gpu-1", "gpu-7")
    slow = [f"{cluster}-2", "pod-of-another-attempt"]
    kubelet.report(cluster, outcome="Failed", reason="FaultyNode", message="rank 1 multiplies wrongly", slowHosts=slow)
    kubelet.rayjob("starchat-1", "Failed", job="FAILED")
    kubelet.remove_ray_pods(cluster)
    world.settle()
    world.clock.advance(900)
    world.settle()
    first = world.status["attempts"][0]
    assert (first["outcome"], first["reason"], first["slowNodes"]) == ("NodeLost", "FaultyNode", ["gpu-7"])
    assert not first.get("charged")
    assert avoided(world, 2) == ["gpu-7"]


def test_a_node_that_was_only_slow_is_named_while_the_attempt_goes_on(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    cluster = runs_on(world, kubelet, 1, "gpu-1", "gpu-7")
    kubelet.report(cluster, outcome="Running", slowHosts=[f"{cluster}-1"])
    world.settle()
    assert world.status["attempts"][0]["slowNodes"] == ["gpu-1"]
    assert world.condition("Trained") == ("False", "Training")


def test_nodes_are_avoided_for_a_day(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    for number in (1, 2):
        loses_a_node(world, kubelet, number, "gpu-1", "gpu-7")
    cluster = runs_on(world, kubelet, 3, "gpu-1", "gpu-2")
    world.clock.advance(24 * 3600)
    kubelet.report(cluster, outcome="Stopped", step=900)
    kubelet.finish("starchat-3", "FAILED")
    world.settle()
    world.clock.advance(60)
    world.settle()
    assert avoided(world, 4) == []


def test_preempted_attempts_blame_no_node(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    for number in (1, 2):
        cluster = runs_on(world, kubelet, number, "gpu-1", "gpu-7")
        kubelet.report(cluster, outcome="Stopped", step=number)
        kubelet.finish(f"starchat-{number}", "FAILED")
        world.settle()
        world.clock.advance(900)
        world.settle()
    assert [a.get("failedNode") for a in world.status["attempts"]] == [None, None, None]
    assert avoided(world, 3) == []


def test_a_pod_that_never_comes_up_on_its_node_blames_it(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 600})
    for number in (1, 2):
        cluster = f"starchat-{number}-abcde"
        kubelet.rayjob(f"starchat-{number}", "Initializing")
        kubelet.ray_pod(cluster, 0, keys.HEAD_CONTAINER, node="cpu-1")
        kubelet.ray_pod(cluster, 1, keys.WORKER_CONTAINER, node="gpu-1")
        kubelet.ray_pod(cluster, 2, keys.WORKER_CONTAINER, node="gpu-7", phase="Pending")
        world.settle()
        world.clock.advance(601)
        world.settle()
        kubelet.remove_ray_pods(cluster)
        world.clock.advance(900)
        world.settle()
    assert [a.get("failedNode") for a in world.status["attempts"][:2]] == ["gpu-7", "gpu-7"]
    assert avoided(world, 3) == ["gpu-7"]


def test_pods_that_come_up_nowhere_blame_none(world: World, kubelet: Kubelet) -> None:
    """As where the image's name is wrong."""
    prepared(world, kubelet, workers={"startDeadlineSeconds": 600})
    kubelet.rayjob("starchat-1", "Initializing")
    for number, node in enumerate(("gpu-1", "gpu-7"), start=1):
        kubelet.ray_pod("starchat-1-abcde", number, keys.WORKER_CONTAINER, node=node, phase="Pending")
    world.settle()
    world.clock.advance(601)
    world.settle()
    assert "failedNode" not in world.status["attempts"][0]


@pytest.mark.parametrize(("reason", "blamed"), [("WorkerLost", "gpu-7"), ("NoProgress", "gpu-7"), ("TrainingFailed", None)])
def test_workers_that_went_silently_on_the_only_node_blame_it(world: World, kubelet: Kubelet, reason: str, blamed: str | None) -> None:
    prepared(world, kubelet, workers={"nodes": 1})
    cluster = runs_on(world, kubelet, 1, "gpu-7")
    kubelet.report(cluster, outcome="Failed", reason=reason, message="x", step=3)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    assert world.status["attempts"][0].get("failedNode") == blamed


def test_what_an_attempt_keeps_of_its_nodes_is_bounded(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"nodes": 32}, training={"microBatchSize": 1})
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    for number in range(33):
        container = keys.WORKER_CONTAINER if number else keys.HEAD_CONTAINER
        kubelet.ray_pod("starchat-1-abcde", number, container, node=f"a-node-with-a-long-name-{number}")
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="x")
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    attempt: dict[str, Any] = world.status["attempts"][0]
    assert len(json.dumps(attempt)) < 4096
    assert len(attempt["nodes"]) == 16
