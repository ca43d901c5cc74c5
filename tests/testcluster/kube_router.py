"""kube-router (2.1) as an enforcer of NetworkPolicies on one node: its firewall alone, for the cluster's network has its own routes.

Both nodes of the test cluster share a network name space, and two firewalls there would remove each other's chains. So it guards the pods
of one node, from and to wherever their packets go.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

from tests.testcluster.binaries import binaries
from tests.testcluster.cluster import Cluster
from tests.testcluster.network import SERVICE_RANGE, inside
from tests.testcluster.node import Node

# Of Debian, beside those of every node.
NEEDED: Final = "ipset"
_CHAINS: Final = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")


@contextlib.contextmanager
def enforced_on(cluster: Cluster, node: Node) -> Iterator[None]:
    """The policies over the node's pods hold while the block runs, some seconds after it has begun. Nothing of it is left."""
    if shutil.which(NEEDED) is None:
        raise RuntimeError(f"kube-router needs {NEEDED}; apt-get install {NEEDED}")
    program = str(binaries(("kube-router",))["kube-router"])
    command = [
        program,
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        "--run-loadbalancer=false",
        f"--hostname-override={node.name}",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--iptables-sync-period=10s",
        "--health-port=0",
        "--metrics-port=0",
    ]
    cluster.processes.start("kube-router", inside(command))
    try:
        yield
    finally:
        cluster.processes.stop("kube-router")
        _remove_rules()


def _remove_rules() -> None:
    """The chains and sets that it leaves when it ends. All else there is kube-proxy's."""
    rules = _inside(["iptables-save"])
    kept = [line for line in rules.splitlines() if not any(chain in line for chain in _CHAINS)]
    _inside(["iptables-restore"], "\n".join([*kept, ""]))
    for name in _inside(["ipset", "list", "-name"]).split():
        _inside(["ipset", "destroy", name])


def _inside(command: list[str], text: str | None = None) -> str:
    return subprocess.run(inside(command), input=text, capture_output=True, text=True, timeout=60, check=True).stdout
