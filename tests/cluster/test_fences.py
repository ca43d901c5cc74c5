"""Fences of docs/operator.md where something enforces them: a job trains behind its NetworkPolicy, and strangers don't reach it."""

from pathlib import Path

import pytest
import yaml
from tests.cluster.operator import Jobs, installed
from tests.cluster.pods import pod, wait_for_phase
from tests.conftest import Tiny
from tests.testcluster.binaries import binaries
from tests.testcluster.cluster import Cluster
from tests.testcluster.kube_router import enforced_on
from tests.testcluster.network import HOST_ADDRESS
from tests.trainer.hub_server import HubServer

PORT = 8000
GCS, DASHBOARD = 6379, 8265  # of Ray's head
SERVE = f"import http.server; http.server.test(http.server.BaseHTTPRequestHandler, port={PORT})"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@pytest.mark.platform
@pytest.mark.timeout(2400)
def test_a_job_trains_behind_its_fence_and_strangers_do_not_reach_it(
    own_cluster: Cluster, operator_image: str, hub: HubServer, namespace: str, tiny: Tiny, tmp_path: Path
) -> None:
    binaries(("kube-router",))  # takes minutes the first time, and no job waits for it
    guarded, other = own_cluster.nodes
    values = tmp_path / "fences.yaml"
    values.write_text(yaml.safe_dump({"networkPolicy": fences(own_cluster)}), encoding="utf-8")
    for name, node in (("stranger", other), ("open", guarded)):
        own_cluster.apply(pod(name, namespace, ["python", "-c", SERVE], node=node.name))
    addresses = {name: wait_for_phase(own_cluster, namespace, name, "Running")["status"]["podIP"] for name in ("stranger", "open")}

    with installed(own_cluster, operator_image, f"--values={values}"):
        jobs = Jobs.ready(own_cluster, namespace, tiny.dialogues)
        there = {"kubernetes.io/hostname": guarded.name}
        jobs.apply("fenced", training__maxSteps=30, workers__nodes=1, workers__nodeSelector=there, cpuPods__nodeSelector=there)
        jobs.wait_until_trains("fenced", attempt=1)
        (head,) = jobs.ray_pods("fenced", "head")
        its, address = str(head["metadata"]["name"]), str(head["status"]["podIP"])

        def reaches(what: str, port: int, *, pod: str = "stranger", container: str = "main") -> bool:
            """Whether the pod can open a connection to that port there."""
            python = ("--", "python", "-c", CONNECT, what, str(port))
            try:
                own_cluster.kubectl("exec", pod, f"--container={container}", f"--namespace={namespace}", *python)
            except RuntimeError:
                return False
            return True

        assert reaches(address, GCS), "the policy is there, and nothing enforces it"
        with enforced_on(own_cluster, guarded):
            jobs.wait_while(lambda: [f"a stranger's way to {its}"] if reaches(address, GCS) else [], seconds=90)
            assert not reaches(address, DASHBOARD)
            assert reaches(addresses["open"], PORT), "what has no policy is open"
            assert not reaches(addresses["stranger"], PORT, pod=its, container="ray-head"), "the job reaches nobody's pods"
            assert reaches(HOST_ADDRESS, own_cluster.control_plane.ports.api_server, pod=its, container="ray-head")
            jobs.wait_for("fenced", "Succeeded")
        assert hub.repositories["org/fenced"].at("main") is not None


def fences(cluster: Cluster) -> dict[str, object]:
    """The chart's values: API server, storage and Hub of the test cluster, which all listen at this machine's address."""
    here = [{"ipBlock": {"cidr": f"{HOST_ADDRESS}/32"}}]
    ports = [int(url.rpartition(":")[2]) for url in (cluster.s3.endpoint, cluster.hub_url)]
    return {
        "enabled": True,
        "apiServer": {"cidrs": ["10.96.0.1/32", f"{HOST_ADDRESS}/32"], "ports": [443, cluster.control_plane.ports.api_server]},
        "jobs": {
            "enabled": True,
            "kubeRay": here,  # a process beside the cluster
            "egress": [{"to": here, "ports": [{"protocol": "TCP", "port": port} for port in ports]}],
        },
    }
