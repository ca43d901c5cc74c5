"""Pods as restricted pod security wants them, in the trainer's image: what a case of a cluster test adds is its command."""

import time
from typing import Any

from tests.testcluster.cluster import Cluster
from tests.testcluster.host_python import HANDLER
from tests.testcluster.images import TRAINER_IMAGE, USER

POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def container(name: str, **more: Any) -> dict[str, Any]:
    """A container with the host's Python; `more` are fields of a container."""
    return {"name": name, "image": TRAINER_IMAGE, "imagePullPolicy": "Never", "securityContext": CONTAINER_SECURITY, **more}


def pod(name: str, namespace: str, command: list[str], *, node: str | None = None, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    """A pod that runs `command` once."""
    resources = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    chosen = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "runtimeClassName": HANDLER,
            "restartPolicy": "Never",
            "securityContext": POD_SECURITY,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [container("main", command=command, **resources)],
            **chosen,
            **spec,
        },
    }


def service(name: str, namespace: str, port: int) -> dict[str, Any]:
    """A service of the pods that are called so."""
    spec = {"selector": {"app": name}, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def wait_for_phase(cluster: Cluster, namespace: str, name: str, phase: str, seconds: float = 120.0) -> dict[str, Any]:
    """The pod once it is in `phase`. Fails with its state and its log when it ends in another, or too late."""
    deadline = time.monotonic() + seconds
    while (found := cluster.get("pod", name, namespace))["status"].get("phase") != phase:
        if time.monotonic() > deadline or found["status"].get("phase") in ("Succeeded", "Failed"):
            described = cluster.kubectl("describe", "pod", name, f"--namespace={namespace}")
            raise AssertionError(
                f"pod {name} is {found['status'].get('phase')}, not {phase}:\n{described}\n{_log(cluster, namespace, name)}"
            )
        time.sleep(0.5)
    return found


def _log(cluster: Cluster, namespace: str, name: str) -> str:
    try:
        return cluster.kubectl("logs", name, f"--namespace={namespace}", "--all-containers")
    except RuntimeError as error:
        return str(error)
