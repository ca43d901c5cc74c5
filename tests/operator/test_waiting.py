"""Why pods don't run, in words."""

from typing import Any

import pytest

from finetune_operator.pods import Pod, read_pod
from finetune_operator.waiting import waits_for

from . import builders


def waiting(reason: str, message: str = "", **changes: Any) -> Pod:
    pod = builders.raw_pod("one", phase="Pending", **changes)
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": reason, "message": message}}
    return read_pod(pod)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (builders.pod("one", unschedulable="0/4 nodes are available: 4 Insufficient nvidia.com/gpu."), "4 Insufficient nvidia.com/gpu"),
        (waiting("ErrImagePull", "manifest unknown"), "check the image's name"),
        (waiting("CreateContainerConfigError", 'secret "s3" not found'), 'secret "s3" not found; make the Secret'),
        (waiting("ErrImageNeverPull"), "is not on the node"),
        (waiting("SomethingNew", "words of a newer kubelet"), "SomethingNew: words of a newer kubelet"),
    ],
)
def test_words(pod: Pod, words: str) -> None:
    assert words in waits_for([pod])
    assert "pod one" in waits_for([pod])


@pytest.mark.parametrize("pod", [waiting("ContainerCreating"), builders.pod(phase="Running"), builders.pod(phase="Failed")])
def test_nothing_to_tell(pod: Pod) -> None:
    assert waits_for([pod]) == ""


def test_pods_that_say_the_same_are_told_once() -> None:
    pods = [builders.pod(f"w-{number}", unschedulable="no GPUs") for number in range(8)]
    assert waits_for(pods) == "pod w-0 and 7 more: Unschedulable: no GPUs"


def test_an_init_container_that_waits_is_told() -> None:
    pod = builders.raw_pod("one", phase="Pending")
    pod["status"]["initContainerStatuses"] = [{"name": "wait", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "back-off"}}}]
    assert "ImagePullBackOff: back-off" in waits_for([read_pod(pod)])


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
    assert "it needs PersistentVolumeClaim data, Secret hub, Secret s3: make what is missing" in waits_for([read_pod(waiting)])
