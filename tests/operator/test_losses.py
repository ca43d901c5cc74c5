"""What counts as lost under an attempt, as a table."""

from typing import Any

import pytest

from finetune_api.status import AttemptPod, AttemptStatus
from finetune_operator import keys
from finetune_operator.losses import lost, running

from . import builders

ATTEMPT = AttemptStatus(number=1, pods=[AttemptPod(name="head", node="node-0"), AttemptPod(name="worker", node="node-7")])
UNREADY = {"type": "Ready", "status": "False"}
KUBELETS = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
TAINTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "taint manager"}
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}


def pod(name: str, **state: Any) -> dict[str, Any]:
    container = keys.HEAD_CONTAINER if name == "head" else keys.WORKER_CONTAINER
    return builders.raw_pod(name, stage=keys.TRAINING, container=container, node=f"node-of-{name}", **state)


def again(found: dict[str, Any], reason: str) -> dict[str, Any]:
    """The pod after the kubelet has started its container once more."""
    ended = {"terminated": {"exitCode": 137 if reason == "OOMKilled" else 1, "reason": reason}}
    found["status"]["containerStatuses"][0]["lastState"] = ended
    return found


CASES: dict[str, tuple[dict[str, Any] | None, str | None]] = {
    "runs": (pod("worker"), None),
    "is gone": (None, "pod worker on node node-7 is gone: somebody deleted it, or its node"),
    "its node is silent": (pod("worker", conditions=(UNREADY,)), "node node-7 no longer answers; pod worker ran there"),
    "its node is silent, and it is being deleted": (
        pod("worker", conditions=(UNREADY,), deleted=builders.CREATED),
        "node node-7 no longer answers; pod worker ran there",
    ),
    "its container is unready, as the kubelet itself says": (pod("worker", conditions=(KUBELETS,)), None),
    "a lost node's taint": (pod("worker", conditions=(TAINTED,)), "pod worker on node node-7: DeletionByTaintManager: taint manager"),
    "is drained, and commits first": (pod("worker", conditions=(DRAINED,), deleted=builders.CREATED), None),
    "is drained, and has ended": (pod("worker", conditions=(DRAINED,), phase="Failed", exit_code=137), None),
    "is deleted, and its container has ended": (pod("worker", deleted=builders.CREATED, exit_code=137), None),
    "kill -9 of the raylet": (
        again(pod("worker"), "Error"),
        "Ray in pod worker on node node-7 ended: the container ended with code 1 (Error)",
    ),
    "ran out of memory, which is the job's own affair": (again(pod("worker"), "OOMKilled"), None),
    "Ray has ended": (
        pod("worker", exit_code=1),
        "Ray in pod worker on node node-7 ended: the container ended with code 1 (Error)",
    ),
}


@pytest.mark.parametrize(("worker", "expected"), CASES.values(), ids=CASES)
def test_losses(worker: dict[str, Any] | None, expected: str | None) -> None:
    assert lost(ATTEMPT, [pod("head"), *([worker] if worker else [])]) == expected


def test_a_pod_in_anothers_place_is_not_that_pod() -> None:
    assert "pod worker on node node-7 is gone" in str(lost(ATTEMPT, [pod("head"), pod("worker-2")]))


def test_the_loss_that_ended_the_others_is_told() -> None:
    """A head whose Ray is killed takes the workers' with it; a node that is gone ends the Ray of the head."""
    assert "pod worker on node node-7 is gone" in str(lost(ATTEMPT, [again(pod("head"), "Error")]))


def test_the_pods_of_an_attempt_are_those_that_run() -> None:
    pods = [pod("head"), pod("worker", phase="Pending"), pod("going", deleted=builders.CREATED)]
    assert running(pods) == [AttemptPod(name="head", node="node-of-head")]
