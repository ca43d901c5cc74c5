"""Why pods don't run, in words."""

from typing import Any

import pytest

from finetune_operator import keys
from finetune_operator.waiting import disruption, ended, evicted, is_unreachable, waits_for

from . import builders


def waiting(reason: str, message: str = "", **changes: Any) -> dict[str, Any]:
    pod = builders.raw_pod("one", phase="Pending", **changes)
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": reason, "message": message}}
    return pod


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (builders.raw_pod("one", unschedulable="0/4 nodes are available: 4 Insufficient nvidia.com/gpu."), "4 Insufficient nvidia.com/gpu"),
        (waiting("ErrImagePull", "manifest unknown"), "check the image's name"),
        (waiting("CreateContainerConfigError", 'secret "s3" not found'), 'secret "s3" not found; make the Secret'),
        (waiting("ErrImageNeverPull"), "is not on the node"),
        (waiting("SomethingNew", "words of a newer kubelet"), "SomethingNew: words of a newer kubelet"),
    ],
)
def test_words(pod: dict[str, Any], words: str) -> None:
    assert words in waits_for([pod])
    assert "pod one" in waits_for([pod])


@pytest.mark.parametrize("pod", [waiting("ContainerCreating"), builders.raw_pod(phase="Running"), builders.raw_pod(phase="Failed")])
def test_nothing_to_tell(pod: dict[str, Any]) -> None:
    assert waits_for([pod]) == ""


def test_pods_that_say_the_same_are_told_once() -> None:
    pods = [builders.raw_pod(f"w-{number}", unschedulable="no GPUs") for number in range(8)]
    assert waits_for(pods) == "pod w-0 and 7 more: Unschedulable: no GPUs"


def test_an_init_container_that_waits_is_told() -> None:
    pod = builders.raw_pod("one", phase="Pending")
    pod["status"]["initContainerStatuses"] = [{"name": "wait", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "back-off"}}}]
    assert "ImagePullBackOff: back-off" in waits_for([pod])


def test_a_container_that_failed_without_our_result_shows_nothing_of_its_text() -> None:
    found = ended(builders.raw_pod(phase="Failed", exit_code=1, result="AWS_SECRET_ACCESS_KEY=abc"), keys.MAIN_CONTAINER)
    assert found is not None
    assert found.result is None
    assert "abc" not in found.message
    assert "code 1" in found.message


def test_an_evicted_pod_has_ended() -> None:
    pod = builders.raw_pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    found = ended(pod, keys.MAIN_CONTAINER)
    assert found is not None
    assert "low on resource" in found.message
    assert disruption(pod) == ("Evicted", "The node was low on resource: memory.")
    assert evicted(pod) == "The node was low on resource: memory."


def test_a_pod_that_was_drained_was_not_evicted_for_what_it_used() -> None:
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    assert evicted(builders.raw_pod(phase="Failed", conditions=(drained,))) is None
    assert evicted(builders.raw_pod(phase="Failed", reason="Terminated", message="imminent node shutdown", conditions=(drained,))) is None


def test_a_pod_on_a_lost_node() -> None:
    assert is_unreachable(builders.raw_pod(conditions=({"type": "Ready", "status": "False"},)))
    assert not is_unreachable(builders.raw_pod(conditions=({"type": "Ready", "status": "False", "reason": "ContainersNotReady"},)))


def test_a_pod_that_waits_for_volumes_names_its_secrets_and_claims() -> None:
    """Kubernetes tells which one is missing in an event only, and the operator may read neither events nor Secrets."""
    waiting = {
        "metadata": {"name": "a"},
        "spec": {
            "volumes": [
                {"name": "one", "projected": {"sources": [{"secret": {"name": "s3"}}, {"configMap": {"name": "ca"}}]}},
                {"name": "two", "secret": {"secretName": "hub"}},
                {"name": "three", "persistentVolumeClaim": {"claimName": "data"}},
            ]
        },
        "status": {"phase": "Pending", "conditions": [{"type": "PodReadyToStartContainers", "status": "False"}]},
    }
    assert "it needs PersistentVolumeClaim data, Secret hub, Secret s3: make what is missing" in waits_for([waiting])
