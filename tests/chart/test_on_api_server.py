"""The chart on a real API server: accepted under strict validation, its pods admitted as `restricted`, its rights as intended."""

import json
from pathlib import Path

import pytest
import yaml
from charts.generate import CHART, NAMESPACE, RELEASE, ROOT
from tests.chart.administrator import KUBECTL, Administrator, restricted_namespace
from tests.chart.rights import OF_JOBS, OF_THE_FENCE, OF_THE_LEASE, flat

from finetune_operator.resources.access import role
from finetune_operator.resources.network_policy import network_policy
from finetune_operator.resources.owner import owner_of
from finetune_operator.settings import settings

pytestmark = pytest.mark.control_plane

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
    of_the_lease = flat(OF_THE_LEASE)
    assert admin.allowed(f"{NAMESPACE}:{RELEASE}", of_the_lease, NAMESPACE, RELEASE) == of_the_lease
    # A creation has no name to be allowed by.
    assert {verb for _, _, verb in admin.allowed(f"{NAMESPACE}:{RELEASE}", of_the_lease, NAMESPACE, "another")} <= {"create"}
    assert not admin.allowed(f"{NAMESPACE}:{RELEASE}", of_the_lease, "kube-system", RELEASE)
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
    # Three kinds belong to another operator, Prometheus'; the priority class lets pods only into kube-system.
    of_prometheus = [f"--set=metrics.{kind}.enabled=false" for kind in ("serviceMonitor", "podMonitor", "prometheusRule")]
    flags = ["--set=crds.enabled=false", *of_prometheus, "--set=priorityClassName="]
    admin.helm("install", RELEASE, CHART, "--namespace", "ours", "--values", CHART / "ci/all-values.yaml", *flags)
    assert len(admin.pods("ours", 3)) == 3
    assert [admin.kubectl("get", kind, "-o", "name") for kind in kinds] == before
    for namespace in ("team-a", "team-b"):
        assert_rights(admin, "ours:finetune", namespace)
        assert admin.allowed("ours:finetune", flat(OF_THE_FENCE), namespace) == flat(OF_THE_FENCE)
    for namespace in ("others", "ours"):
        assert not admin.allowed("ours:finetune", flat(OF_JOBS), namespace)
    admin.helm("uninstall", RELEASE, "--namespace", "ours")


def test_a_jobs_fence_is_accepted_and_the_operator_may_make_and_mend_it(admin: Administrator, tmp_path: Path) -> None:
    restricted_namespace(admin, "fenced")
    values = yaml.safe_load((CHART / "ci/all-values.yaml").read_text(encoding="utf-8"))["networkPolicy"]
    given = tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump({"networkPolicy": values, "watchNamespaces": ["fenced"], "crds": {"enabled": False}}))
    admin.helm("install", RELEASE, CHART, "--namespace", "fenced", "--values", given)
    deployment = json.loads(admin.kubectl("get", "deployment", RELEASE, "-n", "fenced", "-o", "json"))
    environment = {one["name"]: one.get("value", "fenced") for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    rules = settings([], environment).job_network_policy
    assert rules is not None
    made = network_policy(owner_of({"metadata": {"name": "j", "namespace": "fenced", "uid": "1-2-3"}}), rules)
    as_operator = ["--as", f"system:serviceaccount:fenced:{RELEASE}"]
    admin.kubectl("create", "--validate=strict", "-f", "-", *as_operator, stdin=json.dumps(made))
    spec = json.dumps({"spec": made["spec"]})
    admin.kubectl("patch", "networkpolicy", "j-finetune", "-n", "fenced", "--type=merge", f"--patch={spec}", *as_operator)
    # Whole as it was sent: the API server dropped nothing of it.
    kept = json.loads(admin.kubectl("get", "networkpolicy", "j-finetune", "-n", "fenced", "-o", "json"))
    assert kept["spec"] == made["spec"]
    admin.helm("uninstall", RELEASE, "--namespace", "fenced")


def test_the_serving_sample_applies_and_its_pod_is_admitted(admin: Administrator) -> None:
    restricted_namespace(admin, "serving")
    admin.kubectl("apply", "--validate=strict", "-n", "serving", "-f", ROOT / "manifests/samples/serving/assistant.yaml")
    assert len(admin.pods("serving", 1)) == 1
    admin.kubectl("delete", "namespace", "serving", "--wait=false")


def test_uninstalling_keeps_the_jobs(admin: Administrator) -> None:
    restricted_namespace(admin, "keeping")
    admin.helm("install", RELEASE, CHART, "--namespace", "keeping")
    admin.wait_until_cached("finetunejobs")
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
