"""What the pods of a cluster of our own can be without for a while: its names, its S3 server, their way to the API server. As root.

Each is there again when its block ends. A name that was looked up a moment ago may still be known: CoreDNS lets clients keep one for 2 s.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Final

from tests.testcluster.binaries import binaries
from tests.testcluster.cluster import Cluster
from tests.testcluster.dns import dns_command
from tests.testcluster.network import HOST_ADDRESS, POD_RANGE, inside
from tests.testcluster.s3 import s3_command, s3_is_ready

_TABLE: Final = "finetune-outage"


@contextlib.contextmanager
def no_names(cluster: Cluster) -> Iterator[None]:
    """Nobody answers where pods ask for addresses."""
    cluster.processes.kill("coredns")
    try:
        yield
    finally:
        program = binaries(("coredns",))["coredns"]
        cluster.processes.start("coredns", inside(dns_command(program, cluster.folder, cluster.kubeconfig)))


@contextlib.contextmanager
def no_s3(cluster: Cluster) -> Iterator[None]:
    """The S3 server is killed, and started again with what it had on its disk."""
    cluster.processes.kill("s3")
    try:
        yield
    finally:
        cluster.processes.start("s3", s3_command(cluster.folder / "s3"))
        cluster.processes.wait_until("s3", s3_is_ready, seconds=60.0)


@contextlib.contextmanager
def no_api_server(cluster: Cluster) -> Iterator[None]:
    """What pods send to the API server is lost: of jobs, and of the operator. Kubelets, which are no pods, still reach it."""
    port = cluster.control_plane.ports.api_server
    dropped = f"ip saddr {POD_RANGE} ip daddr {HOST_ADDRESS} tcp dport {port} drop"
    # After the service's address has become the server's. nft wants the lines.
    _nft(f"table ip {_TABLE} {{\n chain pods {{\n type filter hook forward priority -10;\n {dropped}\n }}\n}}\n")
    try:
        yield
    finally:
        _nft(f"delete table ip {_TABLE}")


def _nft(rules: str) -> None:
    subprocess.run(inside(["nft", "-f", "-"]), input=rules, capture_output=True, text=True, timeout=60, check=True)
