"""The two Grafana dashboards: what an operator does, and how one job goes. `charts.generate` writes them into the chart.

In: the panels below, one line each. Out: Grafana's JSON (schema 39, Grafana 10 and later). Every query stands here; a test puts
each to a real Prometheus and compares the answer with what is known otherwise (test_series.py and test_operator_series.py of
tests/control_plane).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 24, 7


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: queries by legend. `unit` is Grafana's word; `kind` timeseries, stat, table or gauge."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    about: str = ""
    width: int = 8


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`variables`: name -> the query of its values, which may name those before it."""

    uid: str
    title: str
    variables: dict[str, str]
    panels: tuple[Panel, ...]


_RATE: Final = "[$__rate_interval]"
_OPERATOR: Final = '{namespace="$namespace"}'
_CONTROLLER: Final = '{namespace="$namespace", controller="finetunejob"}'
_QUEUE: Final = '{namespace="$namespace", name="finetunejob"}'
_JOB: Final = '{namespace="$namespace", name="$name"}'


def _quantiles(metric: str, selector: str) -> dict[str, str]:
    """Median and 99th percentile of a histogram."""
    return {
        legend: f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{selector}{_RATE})))"
        for legend, share in (("median", 0.5), ("p99", 0.99))
    }


OPERATOR: Final = Dashboard(
    uid="finetune-operator",
    title="FineTune operator",
    variables={"namespace": "label_values(finetune_unreadable_statuses, namespace)"},
    panels=(
        Panel("Leaders", {"": f"sum(leader_election_master_status{_OPERATOR})"}, kind="stat", width=4, about="1, or nothing is done."),
        Panel("Replicas", {"": f"count(finetune_unreadable_statuses{_OPERATOR})"}, kind="stat", width=4),
        Panel("Jobs", {"": f"sum(max by (stage, reason) (finetune_jobs{_OPERATOR}))"}, kind="stat", width=4),
        Panel(
            "Unreadable statuses",
            {"": f"max(finetune_unreadable_statuses{_OPERATOR})"},
            kind="stat",
            width=4,
            about="Jobs for which nothing is done: a newer operator wrote their status.",
        ),
        Panel("GPU hours of a day", {"": f"sum(increase(finetune_gpu_seconds_total{_OPERATOR}[1d])) / 3600"}, kind="stat", width=4),
        Panel(
            "Time to first step",
            {"": f"histogram_quantile(0.5, sum by (le) (rate(finetune_seconds_to_first_step_bucket{_OPERATOR}[1d])))"},
            unit="s",
            kind="stat",
            width=4,
            about="From an attempt's entry on, median of a day.",
        ),
        Panel("Jobs by stage", {"{{stage}}": f"sum by (stage) (max by (stage, reason) (finetune_jobs{_OPERATOR}))"}),
        Panel(
            "Stalled and failed jobs by reason",
            {"{{stage}}: {{reason}}": 'max by (stage, reason) (finetune_jobs{namespace="$namespace", stage=~"Stalled|Failed"}) > 0'},
        ),
        Panel(
            "Attempts in an hour",
            {
                "begun": f"sum(increase(finetune_attempts_started_total{_OPERATOR}[1h]))",
                "{{outcome}}": f"sum by (outcome) (increase(finetune_attempts_total{_OPERATOR}[1h])) > 0",
            },
        ),
        Panel(
            "Looks at jobs",
            {"{{result}}": f"sum by (result) (rate(controller_runtime_reconcile_total{_CONTROLLER}{_RATE}))"},
            unit="ops",
        ),
        Panel("Length of a look", _quantiles("controller_runtime_reconcile_time_seconds", _CONTROLLER), unit="s"),
        Panel(
            "Workers",
            {
                "at a job": f"max(controller_runtime_active_workers{_CONTROLLER})",
                "in all": f"max(controller_runtime_max_concurrent_reconciles{_CONTROLLER})",
            },
        ),
        Panel("Jobs that wait for a look", {"": f"max(workqueue_depth{_QUEUE})"}),
        Panel("Wait for a look", _quantiles("workqueue_queue_duration_seconds", _QUEUE), unit="s"),
        Panel("Oldest look under way", {"": f"max(workqueue_longest_running_processor_seconds{_QUEUE})"}, unit="s"),
        Panel("Calls to the API server", {"{{code}}": f"sum by (code) (rate(rest_client_requests_total{_OPERATOR}{_RATE}))"}, unit="reqps"),
        Panel("Statuses written", {"": f"sum(rate(finetune_status_writes_total{_OPERATOR}{_RATE}))"}, unit="ops"),
        Panel(
            "Memory", {"{{pod}}": f"process_resident_memory_bytes{_OPERATOR} and on (instance) finetune_unreadable_statuses"}, unit="bytes"
        ),
        Panel(
            "Processors", {"{{pod}}": f"rate(process_cpu_seconds_total{_OPERATOR}{_RATE}) and on (instance) finetune_unreadable_statuses"}
        ),
    ),
)

JOB: Final = Dashboard(
    uid="finetune-job",
    title="FineTuneJob",
    variables={
        "namespace": "label_values(finetune_job_created_timestamp_seconds, namespace)",
        "name": 'label_values(finetune_job_created_timestamp_seconds{namespace="$namespace"}, name)',
    },
    panels=(
        Panel("Stage", {"{{stage}}": f"finetune_job_stage{_JOB} == 1"}, kind="stat", width=4),
        Panel("Done", {"": f"finetune_job_step{_JOB} / finetune_job_total_steps{_JOB}"}, unit="percentunit", kind="gauge", width=4),
        Panel("Attempts", {"": f"finetune_job_attempts{_JOB}"}, kind="stat", width=4),
        Panel("MFU", {"": f"finetune_job_mfu{_JOB}"}, unit="percentunit", kind="gauge", width=4, about="Of the newest reported step."),
        Panel(
            "Goodput",
            {"": f"finetune_job_goodput{_JOB}"},
            unit="percentunit",
            kind="gauge",
            width=4,
            about="Share of the time that attempts which ended were held for, that went into steps that count.",
        ),
        Panel("GPU hours", {"": f"finetune_job_gpu_hours{_JOB}"}, unit="h", kind="stat", width=4),
        Panel("Loss", {"training": f"finetune_job_loss{_JOB}", "held out": f"finetune_job_evaluation_loss{_JOB}"}),
        Panel(
            "Tokens a second",
            {"in steps": f"finetune_job_tokens_per_second{_JOB}", "in all": f"finetune_job_wall_tokens_per_second{_JOB}"},
            about="In all: with evaluations, checkpoints and waits of the attempt.",
        ),
        Panel("Model FLOPs utilisation", {"": f"finetune_job_mfu{_JOB}"}, unit="percentunit"),
        Panel(
            "Slowest rank",
            {"": f"finetune_job_rank_spread{_JOB}"},
            about="How many times the median rank's time the slowest rank takes for the same work. status.progress.slowest names it.",
        ),
        Panel(
            "Steps",
            {
                "done": f"finetune_job_step{_JOB}",
                "in the newest checkpoint": f"finetune_job_checkpoint_step{_JOB}",
                "in all": f"finetune_job_total_steps{_JOB}",
            },
        ),
        Panel(
            "GPU hours, held and allowed",
            {
                "held": f"finetune_job_gpu_hours{_JOB}",
                "budget": f"finetune_job_budget_gpu_hours{_JOB}",
                "planned": f"finetune_job_plan_gpu_hours{_JOB}",
            },
            unit="h",
        ),
        Panel(
            "Ages",
            {
                "newest checkpoint": f"time() - finetune_job_checkpoint_timestamp_seconds{_JOB}",
                "newest report": f"time() - finetune_job_reported_timestamp_seconds{_JOB}",
            },
            unit="s",
            about="What a lost node would cost, and how old the figures on this page are.",
        ),
        Panel("Size of a checkpoint", {"": f"finetune_job_checkpoint_bytes{_JOB}"}, unit="bytes"),
        Panel(
            "Failures",
            {"charged": f"finetune_job_charged_failures{_JOB}", "attempts": f"finetune_job_attempts{_JOB}"},
        ),
        Panel("Conditions", {"{{type}}: {{reason}}": f"finetune_job_condition{_JOB}"}, kind="table"),
    ),
)


def grafana(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["finetune"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(name, query) for name, query in dashboard.variables.items())]},
        "panels": list(_placed(dashboard.panels)),
    }


def _datasource() -> Json:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(name: str, query: str) -> Json:
    found = {"query": query, "refId": name}
    return {"name": name, "type": "query", "datasource": _DATASOURCE, "definition": query, "query": found, "refresh": 2, "sort": 1}


def _placed(panels: Sequence[Panel]) -> list[Json]:
    """Each beside the one before while the row has room."""
    made: list[Json] = []
    left, top = 0, 0
    for number, panel in enumerate(panels, start=1):
        height = 4 if panel.width < 8 else _HEIGHT
        if left + panel.width > _WIDTH:
            left, top = 0, top + made[-1]["gridPos"]["h"]
        made.append(_panel(panel, number) | {"gridPos": {"x": left, "y": top, "w": panel.width, "h": height}})
        left += panel.width
    return made


def _panel(panel: Panel, number: int) -> Json:
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": _DATASOURCE,
            "expr": query,
            "legendFormat": legend or panel.title,
            "instant": instant,
            "range": not instant,
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    shown = {"unit": panel.unit, "min": 0, **({"max": 1} if panel.unit == "percentunit" else {})}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": shown, "overrides": []},
        "options": {"textMode": "name"} if panel.title == "Stage" else {},
    }


DASHBOARDS: Final = {"operator.json": OPERATOR, "job.json": JOB}
