"""Workers that start again in place, as the driver tells of it: counted, charged once, waited for, and told."""

from typing import Any

import pytest

from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared, running

CLUSTER = "starchat-1-abcde"
KILLED = {"reason": "TrainingFailed", "message": "worker 1 of the run died"}
LOST = {"reason": "WorkerLost", "message": f"{CLUSTER}-2 left Ray in the middle", "hosts": [f"{CLUSTER}-2"]}
CHECKPOINT = {"step": 4, "attempt": 1, "bytes": 1}


def report(kubelet: Kubelet, *, step: int = 5, **restarts: Any) -> None:
    told = {"since": None, "hosts": None, "count": 0, "charged": 0, **restarts} if restarts else None
    kubelet.report(CLUSTER, outcome="Running", step=step, totalSteps=10, checkpoint=CHECKPOINT, restarts=told)


def restarts(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.status["attempts"][-1]["restarts"]
    return found


def charged(world: World) -> int:
    return int(world.status.get("usage", {}).get("chargedFailures", 0))


def left(world: World, number: int) -> str:
    """What the driver is told of how many failures it may still have."""
    rayjob = world.api.objects["rayjobs", builders.NAMESPACE, f"starchat-{number}"]
    (head,) = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    return str(next(one["value"] for one in head["env"] if one["name"] == keys.FAILURES_LEFT_ENV))


def test_a_process_that_died_is_charged_when_it_runs_again_and_once(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    report(kubelet, since=kubelet.timestamp(), **KILLED)
    world.settle()
    assert charged(world) == 0, "it may not come back; then the attempt's end is charged"
    assert world.message("Trained") == "attempt 1 runs; its workers start again in place: worker 1 of the run died"
    report(kubelet, count=1, charged=1, **KILLED)
    for _ in range(2):
        world.settle()
        world.restart()
    assert (restarts(world)["count"], restarts(world)["charged"], charged(world)) == (1, 1, 1)
    assert world.message("Trained").startswith("attempt 1 runs; its workers started again in place once, the last time since worker 1")
    assert [note for reason, note in world.events if reason == "WorkersRestarted"] == [
        "attempt 1: its workers started again in place: worker 1 of the run died"
    ]
    kubelet.report(
        CLUSTER, outcome="Failed", step=6, reason="TrainingFailed", message="again", restarts={"count": 1, "charged": 1, **KILLED}
    )
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()
    (ended, _) = world.status["attempts"]
    assert (ended["outcome"], ended["restarts"]["count"], charged(world)) == ("Failed", 1, 2)
    assert "since" not in ended["restarts"]


def test_workers_that_do_not_come_back_are_charged_once(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    again = {"since": kubelet.timestamp(), **KILLED}
    report(kubelet, **again)
    world.settle()
    kubelet.report(CLUSTER, outcome="Failed", step=5, reason="TrainingFailed", message="they did not start again", restarts=again)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(120)
    world.settle()
    assert (charged(world), world.status["attempts"][0]["restarts"].get("since")) == (1, None)


def test_no_more_failures_than_the_policy_gives(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailures": 2})
    assert left(world, 1) == "2"
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods(CLUSTER)
    world.settle()
    again = {"count": 2, "charged": 2, **KILLED}
    report(kubelet, **again)
    world.settle()
    kubelet.report(CLUSTER, outcome="Failed", step=6, reason="WorkerLost", message="gone", checkpoint=CHECKPOINT, restarts=again)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()
    assert (charged(world), world.status["attempts"][0]["charged"]) == (2, False)
    assert left(world, 2) == "0"
    kubelet.rayjob("starchat-2", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-2-abcde")
    kubelet.report("starchat-2-abcde", outcome="Failed", step=7, reason="TrainingFailed", message="worker 0 of the run died")
    kubelet.finish("starchat-2", "FAILED")
    world.settle()
    world.clock.advance(120)
    world.settle()
    assert world.condition("Failed") == ("True", "TooManyFailures")


def test_a_pod_in_the_place_of_a_lost_one_is_waited_for_and_counts_from_then_on(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    report(kubelet)
    world.settle()
    world.api.remove(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-2")
    world.settle()
    report(kubelet, since=kubelet.timestamp(), **LOST)
    world.settle()
    world.clock.advance(300)
    report(kubelet, since=restarts(world)["since"], **LOST)
    world.settle()
    assert "outcome" not in world.status["attempts"][0], "without a word of its driver it would have ended after a minute"
    assert restarts(world)["node"] == "node-1"

    kubelet.ray_pod(CLUSTER, 3, keys.WORKER_CONTAINER)
    report(kubelet, count=1, charged=0, **LOST)
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["restarts"]["count"], charged(world), attempt.get("lost")) == (1, 0, None)
    assert {pod["name"][-1]: pod.get("spare", False) for pod in attempt["pods"]} == {"0": False, "1": False, "2": True, "3": False}
    world.clock.advance(300)
    report(kubelet, count=1, charged=0, **LOST)
    world.settle()
    assert "outcome" not in world.status["attempts"][0], "what was lost before is no loss now"

    world.api.remove(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-3")
    world.settle()
    world.clock.advance(90)
    report(kubelet, count=1, charged=0, **LOST)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NodeLost", "this one is"


def test_a_pod_whose_node_is_silent_is_not_waited_for(world: World, kubelet: Kubelet) -> None:
    """KubeRay makes another one when Kubernetes evicts it, after five minutes; a new attempt begins on other nodes long before."""
    running(world, kubelet)
    report(kubelet, since=kubelet.timestamp(), **LOST)
    world.settle()
    kubelet.ray_pod(CLUSTER, 2, keys.WORKER_CONTAINER, conditions=({"type": "Ready", "status": "False"},))
    world.settle()
    world.clock.advance(70)
    report(kubelet, since=restarts(world)["since"], **LOST)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NodeLost"


def test_a_driver_that_waits_for_ever_is_not_waited_for(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.api.remove(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-2")
    since = kubelet.timestamp()
    for _ in range(5):
        report(kubelet, since=since, **LOST)
        world.settle()
        world.clock.advance(300)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NodeLost"


def test_a_worker_that_ran_out_of_memory_is_not_started_again_as_it_was(world: World, kubelet: Kubelet) -> None:
    """Its driver can't know why the pod went; the pod says so to the operator."""
    running(world, kubelet, training={"microBatchSize": 4}, workers={"gpusPerNode": 0, "workersPerNode": 8})
    kubelet.ray_pod(CLUSTER, 2, keys.WORKER_CONTAINER, phase="Failed", exit_code=137)
    pod = next(one for one in world.api.of(kinds.PODS) if one["metadata"]["name"] == f"{CLUSTER}-2")
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    world.api.put(kinds.PODS, pod)
    world.settle()
    assert "outcome" not in world.status["attempts"][0], "its driver tells how it ends"
    report(kubelet, since=kubelet.timestamp(), **LOST)
    world.settle()
    ended = world.status["attempts"][0]
    assert (ended["outcome"], ended["reason"], charged(world)) == ("Failed", "OutOfMemory", 1)
    assert world.status["adjusted"]["microBatchSize"] == 2


@pytest.mark.parametrize("told", [{"count": 1, "charged": 5}, {"count": 0, "charged": 3}], ids=["more charged than made", "none made"])
def test_a_report_that_is_wrong_charges_no_more_than_the_starts_that_it_tells_of(
    world: World, kubelet: Kubelet, told: dict[str, int]
) -> None:
    running(world, kubelet)
    report(kubelet, **told, **KILLED)
    world.settle()
    assert charged(world) == told["count"]
