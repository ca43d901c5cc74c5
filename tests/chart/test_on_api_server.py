"""The chart on a real API server: accepted under strict validation, its pods admitted as `restricted`, its rights as intended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.generate import CHART, NAMESPACE, RELEASE, ROOT
from tests.chart.rights import OF_JOBS, OF_THE_LEASE, Right, flat
from tests.testcluster.binaries import binaries
from tests.testcluster.control_plane import ControlPlane, control_plane

from finetune_operator.resources.access import role
from finetune_operator.resources.owner import owner_of

pytestmark = pytest.mark.control_plane

KUBECTL = Path(sys.executable).parent / "kubectl"
SECONDS = 60.0
# Nobody wants the operator to have these, anywhere.
FORBIDDEN = {
    *(("", "secrets", verb) for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    ("", "pods/log", "get"),
    ("", "pods/exec", "create"),
    ("", "pods", "create"),
    ("", "configmaps", "list"),
    ("", "configmaps", "patch"),
    ("", "configmaps", "delete"),
    ("", "nodes", "get"),
    ("batch", "jobs", "patch"),
    ("ray.io", "rayjobs", "patch"),
    ("finetune.dev", "finetunejobs", "update"),
    ("rbac.authorization.k8s.io", "roles", "bind"),
    ("rbac.authorization.k8s.io", "roles", "escalate"),
    ("rbac.authorization.k8s.io", "clusterroles", "create"),
}


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

    def allowed(self, account: str, rights: Iterable[Right], namespace: str) -> set[Right]:
        """Those of the rights that the service account (`namespace:name`) has there. One call for all, for kubectl takes its time."""
        asked = sorted(rights)
        reviews = [_review(account, right, namespace) for right in asked]
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


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administrator]:
    with control_plane(tmp_path_factory.mktemp("chart") / "cluster") as plane:
        yield Administrator(plane=plane)


def restricted_namespace(admin: Administrator, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    admin.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))


def _review(account: str, right: Right, namespace: str) -> dict[str, Any]:
    group, resource, verb = right
    name, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": name, "subresource": subresource, "verb": verb, "namespace": namespace}
    spec = {"user": f"system:serviceaccount:{account}", "resourceAttributes": attributes}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def assert_rights(admin: Administrator, account: str, namespace: str) -> None:
    """The account has the operator's rights in the namespace, and none of those that nobody wants it to have."""
    wanted = flat(OF_JOBS)
    assert admin.allowed(account, wanted | FORBIDDEN, namespace) == wanted


def test_install_manifest_applies_and_its_pods_are_admitted(admin: Administrator) -> None:
    manifest = ROOT / "manifests/install.yaml"
    # The second time nothing is new, as for a tool that applies it every few minutes.
    for _ in range(2):
        admin.kubectl("apply", "--server-side", "--validate=strict", "-f", manifest)
    assert len(admin.pods(NAMESPACE, 2)) == 2
    assert_rights(admin, f"{NAMESPACE}:{RELEASE}", "anywhere")
    assert admin.allowed(f"{NAMESPACE}:{RELEASE}", flat(OF_THE_LEASE), NAMESPACE) == flat(OF_THE_LEASE)
    assert not admin.allowed(f"{NAMESPACE}:{RELEASE}", flat(OF_THE_LEASE), "kube-system")
    admin.wait_until_cached("finetunejobs", "finetunereports")
    admin.kubectl("delete", "--timeout=90s", "-f", manifest)


def test_operator_can_grant_a_head_its_report_and_no_more(admin: Administrator) -> None:
    restricted_namespace(admin, "granting")
    values = ["--set", "watchNamespaces={granting}", "--set", "crds.enabled=false"]
    admin.helm("install", RELEASE, CHART, "--namespace", "granting", *values)
    raw = {"metadata": {"name": "j", "namespace": "granting", "uid": "1-2-3"}}
    granted = role(owner_of(raw))
    as_operator = ["--as", f"system:serviceaccount:granting:{RELEASE}"]
    admin.kubectl("create", "-f", "-", *as_operator, stdin=json.dumps(granted))
    granted["metadata"]["name"] = "more"
    granted["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    refused = admin.run(KUBECTL, "create", "-f", "-", *as_operator, stdin=json.dumps(granted))
    assert "attempting to grant RBAC permissions not currently held" in refused.stderr
    admin.helm("uninstall", RELEASE, "--namespace", "granting")


def test_all_values_install_in_namespaced_mode_and_touch_nothing_else(admin: Administrator) -> None:
    for name in ("ours", "team-a", "team-b", "others"):
        restricted_namespace(admin, name)
    kinds = ("clusterroles", "clusterrolebindings", "customresourcedefinitions", "namespaces")
    before = [admin.kubectl("get", kind, "-o", "name") for kind in kinds]
    # The ServiceMonitor's kind belongs to another operator; the priority class lets pods only into kube-system.
    flags = ["--set", "crds.enabled=false", "--set", "metrics.serviceMonitor.enabled=false", "--set", "priorityClassName="]
    admin.helm("install", RELEASE, CHART, "--namespace", "ours", "--values", CHART / "ci/all-values.yaml", *flags)
    assert len(admin.pods("ours", 3)) == 3
    assert [admin.kubectl("get", kind, "-o", "name") for kind in kinds] == before
    for namespace in ("team-a", "team-b"):
        assert_rights(admin, "ours:finetune", namespace)
    for namespace in ("others", "ours"):
        assert not admin.allowed("ours:finetune", flat(OF_JOBS), namespace)
    admin.helm("uninstall", RELEASE, "--namespace", "ours")


def test_uninstalling_keeps_the_jobs(admin: Administrator) -> None:
    restricted_namespace(admin, "keeping")
    admin.helm("install", RELEASE, CHART, "--namespace", "keeping")
    admin.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune.dev", f"--timeout={SECONDS:.0f}s")
    samples = sorted((ROOT / "manifests/samples").glob("*.yaml"))
    for sample in samples:
        admin.kubectl("apply", "--validate=strict", "-n", "keeping", "-f", sample)
    admin.helm("upgrade", RELEASE, CHART, "--namespace", "keeping", "--set", "logLevel=debug")
    admin.helm("uninstall", RELEASE, "--namespace", "keeping")
    kept = admin.kubectl("get", "finetunejobs", "-n", "keeping", "-o", "name").split()
    assert kept == sorted(f"finetunejob.finetune.dev/{yaml.safe_load(sample.read_text())['metadata']['name']}" for sample in samples)
    assert len(kept) >= 3
    # Another release takes them over when it is told to.
    admin.helm("install", "second", CHART, "--namespace", "keeping", "--take-ownership")
    admin.helm("uninstall", "second", "--namespace", "keeping")
    admin.kubectl("delete", "-f", ROOT / "manifests/crd")
