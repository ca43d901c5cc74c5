"""What happens to a run on two real nodes: one fault after the other, all of them to one run, since its start takes minutes.

A fault strikes a job that trains. `cluster_runs` tells the rest, which is the same for all.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster.operator import Jobs
from tests.reliability.local_faults import OUTAGE_SECONDS
from tests.testcluster import cgroups
from tests.testcluster.cluster import Cluster
from tests.testcluster.outages import no_api_server, no_names, no_s3

_DNS_SECONDS: Final = 30.0
# Asked of the network of a pod.
_CONNECT: Final = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A job that trains on a cluster of our own. Its pods reach S3 by a name of the cluster's, `s3_host`."""

    cluster: Cluster
    jobs: Jobs
    name: str
    s3_host: str

    def pod(self, kind: str) -> dict[str, Any]:
        """One of its head and workers."""
        return self.jobs.ray_pods(self.name, kind)[-1]

    def reaches(self, host: str, port: int) -> bool:
        """Whether its driver's pod can open a connection."""
        head = self.pod("head")["metadata"]["name"]
        where = (head, "--container=ray-head", f"--namespace={self.jobs.namespace}")
        try:
            self.cluster.kubectl("exec", *where, "--", "python", "-c", _CONNECT, host, str(port))
        except RuntimeError:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFault:
    """`does`: in a few words. `strike`: does it, and says to what. `trains_on`: no attempt may end for it."""

    does: str
    strike: Callable[[Scene], str]
    trains_on: bool = False


# Pods


def _kill_processes_of(kind: str) -> Callable[[Scene], str]:
    """All processes of the pod's containers, at one moment and without a word, as when the kernel ends them."""

    def strike(scene: Scene) -> str:
        pod = scene.pod(kind)
        ids = {one["containerID"].rpartition("/")[2] for one in pod["status"]["containerStatuses"]}
        for process, container in cgroups.containers_of(pod["spec"]["nodeName"]).items():
            if container in ids:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        return str(pod["metadata"]["name"])

    return strike


def _drain(scene: Scene) -> str:
    """The node of a worker, not the head's: as before an upgrade."""
    heads = {pod["spec"]["nodeName"] for pod in scene.jobs.ray_pods(scene.name, "head")}
    node = next(node.name for node in scene.cluster.nodes if node.name not in heads)
    try:
        scene.cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s", timeout_seconds=210)
    finally:
        scene.cluster.kubectl("uncordon", node)
    return node


# What pods can be without


def _without(
    outage: Callable[[Cluster], AbstractContextManager[None]], seconds: float, reached: Callable[[Scene], tuple[str, int]]
) -> Callable[[Scene], str]:
    """`reached`: what the driver's pod reaches before and after, and not meanwhile."""

    def strike(scene: Scene) -> str:
        where = reached(scene)
        assert scene.reaches(*where), f"{where} can't be reached before the outage"
        with outage(scene.cluster):
            until = time.monotonic() + seconds
            time.sleep(3.0)  # for what clients still know
            assert not scene.reaches(*where), f"{where} can be reached in the outage"
            time.sleep(max(0.0, until - time.monotonic()))
        return f"for {seconds:.0f} s"

    return strike


def _s3_by_name(scene: Scene) -> tuple[str, int]:
    return scene.s3_host, int(scene.cluster.s3.endpoint.rpartition(":")[2])


def _s3_by_address(scene: Scene) -> tuple[str, int]:
    host, _, port = scene.cluster.s3.endpoint.rpartition("//")[2].partition(":")
    return host, int(port)


def _api_server(scene: Scene) -> tuple[str, int]:
    return "10.96.0.1", 443


CLUSTER_FAULTS: Final[Mapping[str, ClusterFault]] = {
    "cluster-s3-down": ClusterFault(does="the S3 server is down", strike=_without(no_s3, OUTAGE_SECONDS, _s3_by_address), trains_on=True),
    "cluster-dns-down": ClusterFault(does="no name is resolved", strike=_without(no_names, _DNS_SECONDS, _s3_by_name), trains_on=True),
    "cluster-api-server-cut-off": ClusterFault(
        does="no pod reaches the API server, the operator's neither",
        strike=_without(no_api_server, OUTAGE_SECONDS, _api_server),
        trains_on=True,
    ),
    "cluster-worker-crashed": ClusterFault(does="`kill -9` of all processes of a worker's pod", strike=_kill_processes_of("worker")),
    "cluster-head-crashed": ClusterFault(does="`kill -9` of all processes of the head's pod", strike=_kill_processes_of("head")),
    "cluster-drained": ClusterFault(does="the node of a worker is drained", strike=_drain),
}
