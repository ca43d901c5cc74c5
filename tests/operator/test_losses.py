"""What counts as lost under an attempt, as a table."""

from typing import Any

import pytest

from finetune_api.status import AttemptPod, AttemptStatus
from finetune_operator import keys
from finetune_operator.losses import lost
from finetune_operator.pods import Pod, read_pod

from . import builders

ATTEMPT = AttemptStatus(number=1, pods=[AttemptPod(name="head", node="node-0"), AttemptPod(name="worker", node="node-7")])
UNREADY = {"type": "Ready", "status": "False"}
KUBELETS = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
TAINTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "taint manager"}
DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}


def raw(name: str, **state: Any) -> dict[str, Any]:
    container = keys.HEAD_CONTAINER if name == "head" else keys.WORKER_CONTAINER
    return builders.raw_pod(name, stage=keys.TRAINING, container=container, node=f"node-of-{name}", **state)


def pod(name: str, **state: Any) -> Pod:
    return read_pod(raw(name, **state))


def again(name: str, reason: str) -> Pod:
    """The pod after the kubelet has started its container once more."""
    found = raw(name)
    ended = {"terminated": {"exitCode": 137 if reason == "OOMKilled" else 1, "reason": reason}}
    found["status"]["containerStatuses"][0]["lastState"] = ended
    return read_pod(found)


CASES: dict[str, tuple[Pod | None, str | None]] = {
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
        again("worker", "Error"),
        "Ray in pod worker on node node-7 ended: the container ended with code 1 (Error)",
    ),
    "ran out of memory, which is the job's own affair": (again("worker", "OOMKilled"), None),
    "Ray has ended": (
        pod("worker", exit_code=1),
        "Ray in pod worker on node node-7 ended: the container ended with code 1 (Error)",
    ),
}


@pytest.mark.parametrize(("worker", "expected"), CASES.values(), ids=CASES)
def test_losses(worker: Pod | None, expected: str | None) -> None:
    found = lost(ATTEMPT, [pod("head"), *([worker] if worker else [])])
    assert found == (("node-7", expected) if expected else None)


def test_a_pod_in_anothers_place_is_not_that_pod() -> None:
    assert "pod worker on node node-7 is gone" in str(lost(ATTEMPT, [pod("head"), pod("worker-2")]))


def test_the_loss_that_ended_the_others_is_told() -> None:
    """A head whose Ray is killed takes the workers' with it; a node that is gone ends the Ray of the head."""
    assert "pod worker on node node-7 is gone" in str(lost(ATTEMPT, [again("head", "Error")]))


def test_a_spare_pod_is_no_loss() -> None:
    """One that KubeRay had replaced before Ray got the driver."""
    attempt = ATTEMPT.model_copy(update={"pods": [AttemptPod(name="head"), AttemptPod(name="worker", spare=True)]})
    assert lost(attempt, [pod("head")]) is None
