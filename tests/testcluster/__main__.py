"""A Kubernetes cluster for a person to try things on: `python -m tests.testcluster up|down|status|environment`. Needs root."""

import argparse
import os
import sys
from pathlib import Path

from tests.testcluster import first_job
from tests.testcluster.cluster import DEBIAN_PACKAGES, Cluster, remove, start
from tests.testcluster.host_python import check_place
from tests.testcluster.hub import hub_url
from tests.testcluster.machine import existing, leftovers
from tests.testcluster.operator_image import operator_image

INSTALL = "apt-get install --no-install-recommends"


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
    commands.add_parser("environment", help="print what a shell evaluates to use it")
    arguments = parser.parse_args()
    doing = {"up": lambda: _up(arguments.folder, arguments.nodes), "down": _down, "status": _status, "environment": _environment}
    try:
        return doing[arguments.command]()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _up(folder: Path, nodes: int) -> int:
    check_place()
    if missing := first_job.missing_builders():
        wanted = f"{DEBIAN_PACKAGES} {' '.join(missing)}"
        raise RuntimeError(f"building the operator's image needs {', '.join(missing)}; on Debian: {INSTALL} {wanted}")
    # First, so that a build that fails leaves no cluster behind.
    operator_image()
    cluster = start(folder, nodes=nodes, outlive=True)
    first_job.prepare(cluster)
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
    cluster = _existing()
    for process in cluster.processes.recorded():
        print(f"{process.name:<26} {'runs' if process.is_running() else 'has ended':<10} {process.pid:>8}  {process.log}")
    print(_what_to_try(cluster))
    return 0


def _environment() -> int:
    print(first_job.environment(_existing()))
    return 0


def _existing() -> Cluster:
    """The cluster that is up. Raises RuntimeError when there is none."""
    folder = existing()
    if folder is None:
        raise RuntimeError("there is no test cluster; make one: make cluster")
    return Cluster.load(folder)


def _what_to_try(cluster: Cluster) -> str:
    # One line, so that it can be pasted.
    gpus = f"for n in {' '.join(node.name for node in cluster.nodes)}; do kubectl patch node $n --subresource=status --type=json"
    gpus += """ -p '[{"op":"add","path":"/status/capacity/nvidia.com~1gpu","value":"8"}]'; done"""
    return f"""
{len(cluster.nodes)} nodes run, with KubeRay's operator and Kueue beside them: docs/platform.md. docs/try-it.md goes on from here:

    eval "$(make -s cluster-env)"       # kubectl, helm and finetune of this cluster, the keys of its S3 and Hub
    helm install finetune-operator charts/finetune-operator --namespace finetune-system --create-namespace --wait \\
      --set image.repository=cluster.test/finetune-operator --set trainer.image.repository=cluster.test/finetune-trainer
    kubectl create secret generic s3 --from-literal=AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID \\
      --from-literal=AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
    kubectl create secret generic hub --from-literal=token=$HF_TOKEN
    kubectl apply -f manifests/samples/tiny.yaml
    kubectl get finetunejob tiny -o wide -w

S3 for pods and for you: {cluster.s3.endpoint}, bucket {first_job.BUCKET}
Hub for pods and for you: {hub_url()}, organisation org
GPUs that are none, to see pods placed: {gpus}
logs: {cluster.folder}/processes
remove it all: make cluster-down"""


if __name__ == "__main__":
    sys.exit(main())
