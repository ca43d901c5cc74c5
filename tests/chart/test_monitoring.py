"""What the chart and manifests/kube-state-metrics.yaml give to Prometheus and Grafana: it fits the CRD, our pods and our files."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from charts.dashboards import DASHBOARDS, grafana
from charts.generate import ALERTS, CHART, ROOT, SERIES
from tests.chart.conftest import Objects

ALL_VALUES = ("--values", str(CHART / "ci/all-values.yaml"))
Render = Callable[..., Objects]
Json = dict[str, Any]


def metrics() -> list[Json]:
    [resource] = yaml.safe_load(SERIES.read_text(encoding="utf-8"))["customResourceState"]["config"]["spec"]["resources"]
    found: list[Json] = resource["metrics"]
    return found


def settings_of(metric: Json) -> Json:
    each = metric["each"]
    found: Json = each[each["type"][0].lower() + each["type"][1:]]
    return found


def paths(metric: Json) -> Iterator[list[str]]:
    """Every field that it reads, from the object's root on."""
    read = settings_of(metric)
    base = read.get("path", [])
    yield base
    for more in (*read.get("labelsFromPath", {}).values(), *([read["valueFrom"]] if "valueFrom" in read else [])):
        yield [*base, *more]


@pytest.fixture(scope="module")
def crd() -> Json:
    found: Json = yaml.safe_load((ROOT / "manifests/crd/finetunejobs.yaml").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric["name"])
def test_series_are_read_from_fields_that_the_crd_has(metric: Json, crd: Json) -> None:
    for path in paths(metric):
        if path[:1] == ["metadata"]:
            continue
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for name in path:
            schema = (schema["items"] if schema.get("type") == "array" else schema)["properties"][name]
        assert metric["each"]["type"] != "Gauge" or path != measured(metric) or is_number(schema), schema


def measured(metric: Json) -> list[str]:
    """The field that is a gauge's value."""
    return [*settings_of(metric)["path"], *settings_of(metric).get("valueFrom", [])]


def is_number(schema: Json) -> bool:
    """Whether kube-state-metrics makes a number of it: times are seconds, True is 1."""
    return schema["type"] in ("integer", "number") or schema.get("format") == "date-time" or "True" in schema.get("enum", [])


def test_stages_are_all_that_there_are() -> None:
    from finetune_operator.metrics import _CONDITIONS

    [stage] = [metric for metric in metrics() if metric["name"] == "stage"]
    assert set(settings_of(stage)["list"]) == set(_CONDITIONS)


def test_alerts_and_dashboards_read_only_series_that_are_made() -> None:
    """A name that nobody tells makes an alert that is silent for ever."""
    from prometheus_client import CollectorRegistry

    from finetune_operator.metrics import JobMetrics
    from finetune_operator.runtime.metrics import RuntimeMetrics

    registry = CollectorRegistry()
    JobMetrics(registry)
    RuntimeMetrics(registry)
    made = {f"finetune_job_{metric['name']}" for metric in metrics()}
    for family in registry.collect():
        made |= {family.name, *(f"{family.name}_{end}" for end in ("total", "bucket", "sum", "count"))}
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    queries = [query for dashboard in DASHBOARDS.values() for panel in dashboard.panels for query in panel.queries.values()]
    variables = [query for dashboard in DASHBOARDS.values() for query in dashboard.variables.values()]
    pattern = re.compile(r"\b(?:finetune|controller_runtime|workqueue|rest_client|leader_election|process)_[a-z_]+")
    read = {name for text in (*rules, *queries, *variables) for name in pattern.findall(text)}
    assert read - made == set()
    assert len(read) > 30


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_stand_side_by_side_and_none_on_another(name: str) -> None:
    made = grafana(DASHBOARDS[name])
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    assert len({panel["title"] for panel in made["panels"]}) == len(made["panels"])


# ---- through Helm


@pytest.mark.control_plane
def test_the_rule_is_the_file_and_each_dashboard_a_config_map(render: Render) -> None:
    objects = render(*ALL_VALUES)
    [rule] = [o for o in objects if o["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    maps = [o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["labels"].get("dashboards") == "yes"]
    assert len(maps) == 2
    shown = {file: json.loads(text) for o in maps for file, text in o["data"].items()}
    assert shown == {f"finetune-{name}": grafana(dashboard) for name, dashboard in DASHBOARDS.items()}


@pytest.mark.control_plane
@pytest.mark.parametrize(
    ("flags", "where"), [(ALL_VALUES, {"matchNames": ["team-a", "team-b"]}), (("--set", "metrics.podMonitor.enabled=true"), {"any": True})]
)
def test_the_pod_monitor_selects_heads_and_workers_and_no_other_pod(render: Render, flags: tuple[str, ...], where: Json) -> None:
    from tests.operator.resources.manifests import plain_job, templates

    from finetune_operator import keys

    [monitor] = [o for o in render(*flags) if o["kind"] == "PodMonitor"]
    made = {pod: template["metadata"]["labels"] for pod, template in templates(plain_job()).items()}
    # KubeRay's own label of the pods that it makes from its two groups; its submitter isn't one of them.
    made["head"] |= {keys.NODE_TYPE_LABEL: "head"}
    made["workers"] |= {keys.NODE_TYPE_LABEL: "worker"}
    selector = monitor["spec"]["selector"]
    [expression] = selector["matchExpressions"]
    selected = {
        pod
        for pod, labels in made.items()
        if selector["matchLabels"].items() <= labels.items() and labels.get(expression["key"]) in expression["values"]
    }
    assert selected == {"head", "workers"}
    assert monitor["spec"]["namespaceSelector"] == where
