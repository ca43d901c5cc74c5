"""KubeRay's operator, as a process beside the cluster: it talks to the API server like any client, and needs no image."""

import subprocess
import time
from pathlib import Path
from typing import Final

from tests.testcluster.network import HOST_ADDRESS

HEALTH_PORT: Final = 8091
_HEALTH: Final = f"{HOST_ADDRESS}:{HEALTH_PORT}"
_METRICS: Final = f"{HOST_ADDRESS}:8092"


def apply_crds(kubectl: Path, kubeconfig: Path, crds: Path) -> None:
    """Apply a folder of CRDs by the server, as they are too long for the annotation of a client's apply, and wait until they are served."""
    cluster = [str(kubectl), f"--kubeconfig={kubeconfig}"]
    files = [f"--filename={path}" for path in sorted(crds.glob("*.yaml"))]
    _run([*cluster, "apply", "--server-side", "--force-conflicts", *files])
    deadline = time.monotonic() + 60.0
    while True:
        try:
            _run([*cluster, "wait", "--for=condition=Established", "--timeout=60s", *files])
            return
        except RuntimeError:  # kubectl gives up at once on an object that has no conditions yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def kuberay_command(program: Path, kubeconfig: Path, *, health: str = _HEALTH, metrics: str = _METRICS) -> list[str]:
    """The command that runs the operator, which listens at those addresses.

    It asks heads for their jobs through the API server, as it can't resolve the cluster's names.
    """
    options = {
        "kubeconfig": kubeconfig,
        "use-kubernetes-proxy": "true",
        "enable-leader-election": "false",
        "health-probe-bind-address": health,
        "metrics-addr": metrics,
    }
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:]}")
