"""manifests/install.yaml as it lies in the repository, the chart's CRDs and schema: no Helm needed."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from charts.generate import CHART, NAMESPACE, ROOT, crd_templates, generated
from tests.chart.rights import OF_JOBS, OF_THE_FENCE, OF_THE_LEASE, bound_to, flat, rights

ACCOUNT = "finetune-operator"


@pytest.fixture(scope="module")
def install() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "manifests/install.yaml").read_text(encoding="utf-8")))


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [o for o in objects if o["kind"] == kind]
    return found


def test_files_without_helm_are_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generated(None).items() if not path.exists() or path.read_text("utf-8") != text]
    assert not stale, f"{stale} differ from their sources; run `make generate`"
    assert set((CHART / "templates/crds").glob("*.yaml")) == set(crd_templates())


def test_install_has_the_crds_as_they_are_generated(install: list[dict[str, Any]]) -> None:
    installed = {o["metadata"]["name"]: o for o in install if o["kind"] == "CustomResourceDefinition"}
    sources = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "manifests/crd").glob("*.yaml")]
    assert installed == {source["metadata"]["name"]: source for source in sources}
    assert {o["metadata"]["annotations"]["helm.sh/resource-policy"] for o in installed.values()} == {"keep"}


def test_the_operator_has_these_rights_and_no_other(install: list[dict[str, Any]]) -> None:
    granted = {namespace: rights(role) for namespace, role in bound_to(install, ACCOUNT)}
    assert granted == {None: flat(OF_JOBS), NAMESPACE: flat(OF_THE_LEASE)}


def test_no_role_has_wildcards_secrets_logs_or_exec(install: list[dict[str, Any]]) -> None:
    roles = [o for o in install if o["kind"] in {"Role", "ClusterRole"}]
    every = set().union(*map(rights, roles))
    assert len(roles) == 4
    assert not {right for right in every if "*" in right}
    assert not {resource for _, resource, _ in every} & {"secrets", "pods/log", "pods/exec", "pods/attach", "pods/portforward"}
    assert not {verb for _, _, verb in every} & {"escalate", "bind", "impersonate"}
    assert all("nonResourceURLs" not in rule for role in roles for rule in role["rules"])


def test_reference_tells_each_right() -> None:
    section = (ROOT / "docs/operator.md").read_text(encoding="utf-8").partition("\n## Rights\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w/]+) \| ([a-z, ]+) \| ", section, re.MULTILINE)
    told = {(group.replace("core", ""), resource): set(verbs.split(", ")) for group, resource, verbs in rows if group != "group"}
    assert told == OF_JOBS | OF_THE_FENCE | OF_THE_LEASE


def test_people_get_finetunejobs_and_nothing_else(install: list[dict[str, Any]]) -> None:
    of_people = [o for o in install if o["kind"] == "ClusterRole" and o["metadata"]["name"] != ACCOUNT]
    assert {group for role in of_people for group, _, _ in rights(role)} == {"finetune.dev"}
    assert not {right for role in of_people for right in rights(role) if "status" in right[1]}


def test_pod_is_restricted_and_writes_nowhere(install: list[dict[str, Any]]) -> None:
    pod = only(install, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {tuple(volume) for volume in pod["volumes"]} == {("name", "emptyDir")}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert only(install, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_two_replicas_of_which_one_may_go_and_a_ready_one_need_not_lead(install: list[dict[str, Any]]) -> None:
    deployment = only(install, "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert only(install, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert "lifecycle" not in container


def test_namespaced_objects_say_where_they_are(install: list[dict[str, Any]]) -> None:
    cluster_scoped = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    assert {o["metadata"].get("namespace") for o in install if o["kind"] not in cluster_scoped} == {NAMESPACE}


def test_operator_understands_its_environment(install: list[dict[str, Any]]) -> None:
    from finetune_operator.settings import settings

    [container] = only(install, "Deployment")["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value", NAMESPACE) for variable in container["env"]}
    understood = settings([], given)
    assert understood.namespaces is None
    assert (understood.trainer_image, understood.operator_namespace, understood.http_port) == ("finetune-trainer:0.1.0", NAMESPACE, 8080)
    # A misspelt variable is the default to `settings`: each one must move its field when it is given nonsense.
    for name in given.keys() - {"FINETUNE_OPERATOR_TRAINER_IMAGE"}:
        with pytest.raises(SystemExit):
            settings([], given | {name: "?"})


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_default_and_all_values_fit_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    for name in ("values.yaml", "ci/all-values.yaml"):
        jsonschema.validate(yaml.safe_load((CHART / name).read_text(encoding="utf-8")), schema())


def leaves(values: object, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of the schema's own fields in values."""
    free = {
        "annotations",
        "labels",
        "requests",
        "limits",
        "affinity",
        "nodeSelector",
        "podLabels",
        "podAnnotations",
        "jobDefaults",
        "prices",
    }
    if not isinstance(values, dict) or (above and above[-1] in free):
        return {above}
    return {leaf for name, value in values.items() for leaf in leaves(value, (*above, name))}


def test_all_values_are_all_the_values() -> None:
    defaults, everything = (yaml.safe_load((CHART / name).read_text(encoding="utf-8")) for name in ("values.yaml", "ci/all-values.yaml"))
    assert leaves(everything) == leaves(defaults)


def test_every_object_of_the_schema_is_closed_and_every_value_described() -> None:
    undescribed, open_objects, waiting = [], [], [("values", schema())]
    while waiting:
        path, node = waiting.pop()
        open_objects += [path] if "properties" in node and node.get("additionalProperties") is not False else []
        undescribed += [f"{path}.{name}" for name, field in node.get("properties", {}).items() if not field.get("description")]
        waiting += [(f"{path}.{name}", field) for name, field in node.get("properties", {}).items()]
    assert (open_objects, undescribed) == ([], [])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.update(replica=3),
        lambda values: values["image"].update(repo="x"),
        lambda values: values["image"].update(digest="latest"),
        lambda values: values.update(watchNamespaces="team-a"),
        lambda values: values.update(watchNamespaces=["Team A"]),
        lambda values: values["trainer"].update(stopSeconds="4m"),
        lambda values: values["topologySpread"].append({"topologyKey": "zone", "labelSelector": {}}),
        lambda values: values["metrics"]["serviceMonitor"].update(interval="30"),
        lambda values: values["networkPolicy"]["apiServer"].update(cidrs=["10.0.0.1"]),
        lambda values: values["networkPolicy"]["jobs"].update(egress=[{"from": []}]),
        lambda values: values["networkPolicy"]["jobs"].update(egress=[{"to": [{"ipblock": {"cidr": "10.0.0.0/8"}}]}]),
        lambda values: values["networkPolicy"].update(metricsFrom=[{}]),
    ],
)
def test_schema_refuses_a_typo(spoil: Callable[[dict[str, Any]], None]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    spoil(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema())


def test_chart_and_distribution_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert chart["version"] == chart["appVersion"] == version


def test_kustomize_gives_what_install_has(install: list[dict[str, Any]]) -> None:
    kubectl = Path(sys.executable).parent / "kubectl"
    built = subprocess.run([kubectl, "kustomize", ROOT / "manifests"], capture_output=True, text=True, check=True).stdout
    # Kustomize writes numbers as YAML 1.2 does; PyYAML reads 1.1, to which this one is a string.
    built = re.sub(r": (\d)e-(\d+)$", r": \1.0e-\2", built, flags=re.MULTILINE)

    def sortable(one: dict[str, Any]) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    assert sorted(yaml.safe_load_all(built), key=sortable) == sorted(install, key=sortable)


def test_every_policy_is_in_the_kustomization() -> None:
    folder = ROOT / "manifests/policies"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert set(listed) == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
