"""A Kubernetes cluster for a person to try things on: `python -m tests.testcluster up|down|status`. Needs root."""

import argparse
import os
import sys
from pathlib import Path

from tests.testcluster.cluster import Cluster, kubectl_program, remove, start
from tests.testcluster.hub import WRITE_TOKEN, hub_url
from tests.testcluster.images import TRAINER_IMAGE
from tests.testcluster.machine import existing, leftovers


def default_folder() -> Path:
    """Where the cluster keeps what it writes, unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "cluster-state"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.testcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make a cluster and leave it running")
    up.add_argument("--folder", type=Path, default=default_folder(), help="where it writes; absent: %(default)s")
    up.add_argument("--nodes", type=int, default=2, choices=range(1, 5), help="absent: %(default)s")
    commands.add_parser("down", help="remove it, and whatever a crash left of one")
    commands.add_parser("status", help="what runs")
    arguments = parser.parse_args()
    try:
        return {"up": lambda: _up(arguments.folder, arguments.nodes), "down": _down, "status": _status}[arguments.command]()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _up(folder: Path, nodes: int) -> int:
    cluster = start(folder, nodes=nodes, outlive=True)
    print(_what_to_try(cluster))
    return 0


def _down() -> int:
    remove(existing() or default_folder())
    if remaining := leftovers():
        print("could not remove: " + ", ".join(remaining), file=sys.stderr)
        return 1
    print("the test cluster is removed")
    return 0


def _status() -> int:
    folder = existing()
    if folder is None:
        print("there is no test cluster; make one: python -m tests.testcluster up")
        return 1
    cluster = Cluster.load(folder)
    for process in cluster.processes.recorded():
        print(f"{process.name:<26} {'runs' if process.is_running() else 'has ended':<10} {process.pid:>8}  {process.log}")
    print(_what_to_try(cluster))
    return 0


def _what_to_try(cluster: Cluster) -> str:
    # One line, so that it can be pasted.
    patch = f"for n in {' '.join(node.name for node in cluster.nodes)}; do kubectl patch node $n --subresource=status --type=json"
    patch += """ -p '[{"op":"add","path":"/status/capacity/nvidia.com~1gpu","value":"8"}]'; done"""
    return f"""
export KUBECONFIG={cluster.kubeconfig} PATH={kubectl_program().parent}:$PATH

kubectl get nodes -o wide                       # {len(cluster.nodes)} nodes, with KubeRay's operator beside them
{patch}
S3 for pods and for you: {cluster.s3.endpoint}  access key {cluster.s3.access_key}, secret key in {cluster.folder}/s3/s3.json
Hub for pods and for you: HF_ENDPOINT={hub_url()}  token {WRITE_TOKEN} (organisation `org`)
Trainer pods: image {TRAINER_IMAGE} with runtimeClassName: host-python
logs: {cluster.folder}/processes
remove it all: python -m tests.testcluster down"""


if __name__ == "__main__":
    sys.exit(main())
