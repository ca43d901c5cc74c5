"""Who installs things: kubectl and Helm with an administrator's rights, on a real API server."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart.rights import Right
from tests.testcluster.binaries import binaries
from tests.testcluster.control_plane import ControlPlane

KUBECTL = Path(sys.executable).parent / "kubectl"
SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """Who installs things."""

    plane: ControlPlane

    def run(self, *command: str | Path, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """kubectl or helm with the administrator's kubeconfig."""
        environment = os.environ | {"KUBECONFIG": str(self.plane.kubeconfig)}
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment, input=stdin)

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        done = self.run(KUBECTL, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm(self, *arguments: str | Path) -> str:
        done = self.run(binaries(["helm"])["helm"], *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def allowed(self, account: str, rights: Iterable[Right], namespace: str, name: str = "") -> set[Right]:
        """Those of the rights that the service account (`namespace:name`) has there. One call for all, for kubectl takes its time.

        `name`: on the object of that name; absent is on any.
        """
        asked = sorted(rights)
        reviews = [_review(account, right, namespace, name) for right in asked]
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answers = self.kubectl("create", "-o", 'jsonpath={.status.allowed}{"\\n"}', "-f", "-", stdin=together).splitlines()
        return {right for right, answer in zip(asked, answers, strict=True) if answer == "true"}

    def wait_until_cached(self, *kinds: str) -> None:
        """Until the API server answers for these kinds of ours from its cache.

        One deleted before may stay for minutes: "could not list instances: storage is (re)initializing" (seen once, Kubernetes 1.34).
        """
        end = time.monotonic() + SECONDS
        for kind in kinds:
            while self.run(KUBECTL, "get", "--raw", f"/apis/finetune.dev/v1alpha1/{kind}?resourceVersion=0").returncode:
                assert time.monotonic() < end, kind
                time.sleep(0.5)

    def pods(self, namespace: str, count: int) -> list[dict[str, Any]]:
        """The namespace's pods, once there are as many; fails with what kept them away."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
            if len(found) == count:
                return found
            time.sleep(0.5)
        raise AssertionError(self.kubectl("get", "events", "-n", namespace))


def restricted_namespace(admin: Administrator, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    admin.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))


def _review(account: str, right: Right, namespace: str, name: str) -> dict[str, Any]:
    group, resource, verb = right
    kind, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": kind, "subresource": subresource, "verb": verb, "namespace": namespace, "name": name}
    spec = {"user": f"system:serviceaccount:{account}", "resourceAttributes": attributes}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
