"""The chart through Helm: every branch renders, install.yaml is what it makes, namespaced mode touches no cluster-scoped object."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from charts.generate import CHART, NAMESPACE, ROOT, install_manifest
from tests.chart.conftest import Objects
from tests.chart.rights import OF_JOBS, OF_THE_FENCE, OF_THE_LEASE, bound_to, flat, rights

from finetune_api.job_defaults import parse_defaults

pytestmark = pytest.mark.control_plane

ALL_VALUES = ("--values", str(CHART / "ci/all-values.yaml"))
Render = Callable[..., Objects]


def test_install_manifest_is_up_to_date(helm: Path) -> None:
    assert (ROOT / "manifests/install.yaml").read_text(encoding="utf-8") == install_manifest(helm), "run `make generate`"


@pytest.mark.parametrize("values", [(), ALL_VALUES], ids=["defaults", "all"])
def test_lint(helm: Path, values: tuple[str, ...]) -> None:
    done = subprocess.run([str(helm), "lint", "--strict", str(CHART), *values], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_values_make_every_kind(render: Render) -> None:
    kinds = {o["kind"] for o in render(*ALL_VALUES)}
    assert {
        "CustomResourceDefinition",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceMonitor",
    } <= kinds
    assert {"PodMonitor", "PrometheusRule", "ConfigMap"} <= kinds


def test_namespaced_mode_is_namespaced(render: Render) -> None:
    objects = render(*ALL_VALUES, "--set", "crds.enabled=false")
    assert not [o["kind"] for o in objects if o["kind"].startswith("Cluster") or o["kind"] == "CustomResourceDefinition"]
    granted = {namespace: rights(role) for namespace, role in bound_to(objects, "finetune")}
    assert granted == dict.fromkeys(("team-a", "team-b"), flat(OF_JOBS | OF_THE_FENCE)) | {NAMESPACE: flat(OF_THE_LEASE)}


def test_namespaced_mode_in_the_operators_own_namespace(render: Render) -> None:
    objects = render("--set", f"watchNamespaces={{{NAMESPACE}}}")
    granted = [(namespace, rights(role)) for namespace, role in bound_to(objects, "finetune-operator")]
    assert sorted(len(r) for _, r in granted) == [len(flat(OF_THE_LEASE)), len(flat(OF_JOBS))]
    assert {namespace for namespace, _ in granted} == {NAMESPACE}


def test_crds_can_be_left_out(render: Render) -> None:
    with_crds, without = (len(render(*flags)) for flags in ((), ("--set", "crds.enabled=false")))
    assert with_crds - without == 2


def test_values_reach_the_operator(render: Render, tmp_path: Path) -> None:
    from finetune_operator.settings import settings

    objects = render(*ALL_VALUES)
    [deployment] = [o for o in objects if o["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    given = {variable["name"]: variable.get("value", NAMESPACE) for variable in pod["containers"][0]["env"]}
    # The file that the pod mounts.
    [mounted] = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "job-defaults"]
    [defaults] = [o["data"] for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == mounted]
    file = tmp_path / Path(given["FINETUNE_OPERATOR_JOB_DEFAULTS"]).name
    file.write_text(defaults[file.name], encoding="utf-8")
    understood = settings([], given | {"FINETUNE_OPERATOR_JOB_DEFAULTS": str(file)})
    assert understood.namespaces == ("team-a", "team-b")
    assert understood.trainer_image == "registry.example.com/finetune/trainer:1.2.3"
    assert (understood.image_pull_policy, understood.image_pull_secrets) == ("Never", ("mirror", "registry"))
    assert (understood.stop_seconds, understood.concurrent_reconciles, understood.log_level) == (600, 8, "debug")
    assert understood.ray_version == "2.61.0"
    assert understood.sandbox_profile == "profiles/sandbox.json"
    rules = understood.job_network_policy
    assert rules is not None
    to_kuberay, to_prometheus = rules.ingress
    assert (to_kuberay["from"], to_kuberay["ports"][0]["port"]) == ([{"ipBlock": {"cidr": "192.168.1.0/28"}}], 8265)
    assert to_prometheus["ports"][0]["port"] == 8080
    names, api_server, storage, _hub = rules.egress
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert [peer["ipBlock"]["cidr"] for peer in api_server["to"]] == ["10.96.0.1/32", "192.168.1.0/28"]
    assert (storage["to"], storage["ports"]) == ([{"ipBlock": {"cidr": "10.1.2.3/32"}}], [{"protocol": "TCP", "port": 9000}])
    assert pod["containers"][0]["image"].startswith("registry.example.com/finetune/operator@sha256:")


def test_one_replica_may_be_evicted(render: Render) -> None:
    assert "PodDisruptionBudget" not in {o["kind"] for o in render("--set", "replicas=1")}


def test_the_operators_fence_is_around_its_own_pods(render: Render) -> None:
    objects = render("--set", "networkPolicy.enabled=true", "--set", "networkPolicy.apiServer.cidrs={10.96.0.1/32}")
    [policy] = [o for o in objects if o["kind"] == "NetworkPolicy"]
    [deployment] = [o for o in objects if o["kind"] == "Deployment"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    [metrics] = policy["spec"]["ingress"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in metrics["ports"]} <= ports
    assert [o for o in render("--set", "networkPolicy.metricsFrom=null") if o["kind"] == "NetworkPolicy"] == []


def test_two_releases_have_names_and_leases_of_their_own(helm: Path, render: Render) -> None:
    command = [str(helm), "template", "second", str(CHART), "--namespace", NAMESPACE, "--set", "crds.enabled=false"]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {o["metadata"]["name"] for o in render("--set", "crds.enabled=false")}
    assert "name: second-finetune-operator" in other
    assert not [name for name in names if f"  name: {name}\n" in other]
    assert re.findall(r"name: FINETUNE_OPERATOR_LEASE_NAME\s+value: (\S+)", other) == ["second-finetune-operator"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("replica=3", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("networkPolicy.enabled=true", "networkPolicy.apiServer.cidrs"),
        ("networkPolicy.jobs.enabled=true", "networkPolicy.apiServer.cidrs"),
        ("metrics.service.enabled=false,metrics.serviceMonitor.enabled=true", "metrics.service.enabled"),
    ],
)
def test_wrong_values_are_refused_with_their_name(helm: Path, flag: str, said: str) -> None:
    done = subprocess.run([str(helm), "template", "x", str(CHART), "--set", flag], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_operator_may_renew_its_own_lease_alone(render: Render) -> None:
    objects = render()
    [deployment] = [o for o in objects if o["kind"] == "Deployment"]
    env = {variable["name"]: variable.get("value") for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    rules = [rule for o in objects if o["kind"] == "Role" for rule in o["rules"] if rule["resources"] == ["leases"]]
    by_name = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    name = [env["FINETUNE_OPERATOR_LEASE_NAME"]]
    assert by_name == {"get": name, "update": name, "create": None}


def test_the_defaults_of_jobs_are_read_by_the_operator(render: Render) -> None:
    """As it reads them when it starts; a change of them is another pod template."""
    objects = render(*ALL_VALUES)
    config_map = next(o for o in objects if o["metadata"]["name"].endswith("-job-defaults"))
    read = parse_defaults(config_map["data"]["defaults.yaml"], "the chart")
    assert read.workers.annotations == {"karpenter.sh/do-not-disrupt": "true"}
    assert read.checkpoints.storage == "s3://bucket/jobs"
    pod = next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "job-defaults")
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (mount,) = (one["mountPath"] for one in container["volumeMounts"] if one["name"] == "job-defaults")
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["FINETUNE_OPERATOR_JOB_DEFAULTS"] == f"{mount}/defaults.yaml"
    other = render(*ALL_VALUES, "--set", "jobDefaults.workers.queueName=other")
    assert next(o for o in other if o["kind"] == "Deployment")["spec"]["template"]["metadata"] != pod["metadata"]


def test_users_may_be_the_platforms(render: Render) -> None:
    for flags, ids in (((), {"runAsUser": 65532, "runAsGroup": 65532}), (("--set", "assignedIds=true"), {})):
        deployment = next(o for o in render(*flags) if o["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        assert {name: value for name, value in pod["securityContext"].items() if name.startswith("runAs") and name != "runAsNonRoot"} == ids
        variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert variables["FINETUNE_OPERATOR_ASSIGNED_IDS"] == ("false" if ids else "true")
