"""The chart through Helm: every branch renders, install.yaml is what it makes, namespaced mode touches no cluster-scoped object."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from charts.generate import CHART, NAMESPACE, ROOT, install_manifest
from tests.chart.conftest import Objects
from tests.chart.rights import OF_JOBS, OF_THE_LEASE, bound_to, flat, rights

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
    assert {"CustomResourceDefinition", "Deployment", "PodDisruptionBudget", "Role", "RoleBinding", "Service", "ServiceMonitor"} <= kinds


def test_namespaced_mode_is_namespaced(render: Render) -> None:
    objects = render(*ALL_VALUES, "--set", "crds.enabled=false")
    assert not [o["kind"] for o in objects if o["kind"].startswith("Cluster") or o["kind"] == "CustomResourceDefinition"]
    granted = {namespace: rights(role) for namespace, role in bound_to(objects, "finetune")}
    assert granted == {"team-a": flat(OF_JOBS), "team-b": flat(OF_JOBS), NAMESPACE: flat(OF_THE_LEASE)}


def test_namespaced_mode_in_the_operators_own_namespace(render: Render) -> None:
    objects = render("--set", f"watchNamespaces={{{NAMESPACE}}}")
    granted = [(namespace, rights(role)) for namespace, role in bound_to(objects, "finetune-operator")]
    assert sorted(len(r) for _, r in granted) == [len(flat(OF_THE_LEASE)), len(flat(OF_JOBS))]
    assert {namespace for namespace, _ in granted} == {NAMESPACE}


def test_crds_can_be_left_out(render: Render) -> None:
    with_crds, without = (len(render(*flags)) for flags in ((), ("--set", "crds.enabled=false")))
    assert with_crds - without == 2


def test_values_reach_the_operator(render: Render) -> None:
    from finetune_operator.settings import settings

    [deployment] = [o for o in render(*ALL_VALUES) if o["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    understood = settings([], {variable["name"]: variable.get("value", NAMESPACE) for variable in pod["containers"][0]["env"]})
    assert understood.namespaces == ("team-a", "team-b")
    assert understood.trainer_image == "registry.example.com/finetune/trainer:1.2.3"
    assert (understood.image_pull_policy, understood.image_pull_secrets) == ("Never", ("mirror", "registry"))
    assert (understood.stop_seconds, understood.concurrent_reconciles, understood.log_level) == (600, 8, "debug")
    assert understood.ray_version == "2.61.0"
    assert pod["containers"][0]["image"].startswith("registry.example.com/finetune/operator@sha256:")


def test_one_replica_may_be_evicted(render: Render) -> None:
    assert "PodDisruptionBudget" not in {o["kind"] for o in render("--set", "replicas=1")}


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
        ("metrics.service.enabled=false,metrics.serviceMonitor.enabled=true", "metrics.service.enabled"),
    ],
)
def test_wrong_values_are_refused_with_their_name(helm: Path, flag: str, said: str) -> None:
    done = subprocess.run([str(helm), "template", "x", str(CHART), "--set", flag], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
