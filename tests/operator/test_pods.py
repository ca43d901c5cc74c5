"""What is read of a pod."""

from finetune_operator import keys
from finetune_operator.pods import Controller, read_pod

from . import builders


def test_who_made_it_where_it_is_and_what_it_holds() -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T10:00:05Z"}
    raw = builders.raw_pod("w-0", controller=builders.ray_cluster("starchat-1-abcde"), conditions=(scheduled,), node="node-7")
    limits = {"nvidia.com/gpu": "8", "memory": "1Ti", "cpu": "90"}
    raw["spec"]["containers"] = [{"resources": {"limits": limits}}, {"resources": {"limits": {"nvidia.com/gpu": 1}}}, {}]
    pod = read_pod(raw)
    assert pod.controller == Controller(kind="RayCluster", name="starchat-1-abcde", uid="uid-of-starchat-1-abcde")
    assert (pod.name, pod.node, pod.bound_time, pod.devices) == ("w-0", "node-7", "2026-11-23T10:00:05Z", {"nvidia.com/gpu": 9})


def test_a_pod_of_which_nothing_is_told_yet() -> None:
    pod = read_pod({"metadata": {"name": "one"}})
    assert (pod.phase, pod.controller, pod.node, pod.bound_time, pod.has_ended) == ("Pending", None, None, None, False)
    assert pod.ended(keys.MAIN_CONTAINER) is None


def test_an_owner_that_is_not_the_controller_made_nothing() -> None:
    raw = builders.raw_pod()
    raw["metadata"]["ownerReferences"] = [{"kind": "RayCluster", "name": "a", "uid": "u"}]
    assert read_pod(raw).controller is None


def test_a_container_that_failed_without_our_result_shows_nothing_of_its_text() -> None:
    found = builders.pod(phase="Failed", exit_code=1, result="AWS_SECRET_ACCESS_KEY=abc").ended(keys.MAIN_CONTAINER)
    assert found is not None
    assert found.result is None
    assert "abc" not in found.message
    assert "code 1" in found.message


def test_an_evicted_pod_has_ended() -> None:
    pod = builders.pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    found = pod.ended(keys.MAIN_CONTAINER)
    assert found is not None
    assert "low on resource" in found.message
    assert pod.disruption == ("Evicted", "The node was low on resource: memory.")
    assert pod.eviction == "The node was low on resource: memory."


def test_a_pod_that_was_drained_was_not_evicted_for_what_it_used() -> None:
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    assert builders.pod(phase="Failed", conditions=(drained,)).eviction is None
    assert builders.pod(phase="Failed", reason="Terminated", message="imminent node shutdown", conditions=(drained,)).eviction is None


def test_a_pod_on_a_lost_node() -> None:
    assert builders.pod(conditions=({"type": "Ready", "status": "False"},)).is_unreachable
    assert not builders.pod(conditions=({"type": "Ready", "status": "False", "reason": "ContainersNotReady"},)).is_unreachable
