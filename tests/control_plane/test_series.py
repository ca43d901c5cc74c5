"""A job's series as a real kube-state-metrics makes them and a real Prometheus has them: dashboard, and alerts by their states.

The API server is in memory: of it kube-state-metrics needs lists and watches alone. The statuses are the contract's own.
"""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.dashboards import JOB
from tests.conftest import ROOT
from tests.control_plane.played import eventually
from tests.control_plane.prometheus import Prometheus, alerts_of, free_ports, kube_state_metrics, prometheus
from tests.operator import builders
from tests.operator.runtime.faulty_api import faulty_api
from tests.operator.runtime.memory_api import MemoryApi, Request

from finetune_api.status import parse_status

pytestmark = [pytest.mark.control_plane, pytest.mark.thorough]

Json = dict[str, Any]
NAMESPACE = builders.NAMESPACE
NOW = datetime.now(UTC).replace(microsecond=0)
# What the API knows: kinds by collection, which lists have to name here.
_KINDS = {
    "apis/apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition",
    "apis/finetune.dev/v1alpha1/finetunejobs": "FineTuneJob",
}


class ForGoClients(MemoryApi):
    """As client-go wants it: a version, lists whose items say what they are, watches from now on, and no bookmark without a kind."""

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if target.partition("?")[0] == "/version":
            return 200, json.dumps({"major": "1", "minor": "34", "gitVersion": "v1.34.2"}).encode()
        return super().call(method, target, body) if target.count("/") > 3 else (404, b"{}")

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        return (line for line in super().watch(target, stop) if b'"BOOKMARK"' not in line)

    def _get(self, request: Request, _: object) -> Json:
        found = super()._get(request, _)
        if request.name:
            return found
        kind, version = _KINDS[request.collection], "/".join(request.collection.split("/")[1:3])
        items = [{"kind": kind, "apiVersion": version, **item} for item in found["items"]]
        return found | {"kind": f"{kind}List", "apiVersion": version, "items": items}


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(**states: tuple[str, str]) -> list[Json]:
    """`Trained=("False", "Starting")`."""
    shared = {"lastTransitionTime": ago(60), "observedGeneration": 1}
    return [{"type": kind, "status": status, "reason": reason, **shared} for kind, (status, reason) in states.items()]


def job(name: str, status: Json, **spec: Any) -> Json:
    parse_status(status)  # it is one that the operator may write
    return builders.raw_job(name, status=status, created=ago(200), **spec)


GOING_ON = {"Failed": ("False", "NotFinished"), "Stalled": ("False", "NotStalled"), "Reconciling": ("True", "InProgress")}
STARCHAT = job(
    "starchat",
    {
        "stage": "Training",
        "startTime": ago(100),
        "attempt": 2,
        "conditions": conditions(Planned=("True", "Planned"), Trained=("False", "Training"), Evaluated=("Unknown", "Waiting"), **GOING_ON),
        "plan": {"worldSize": 16, "gpuHours": 0.25},
        "usage": {"gpuHours": 12.5, "heldSeconds": 30.0, "goodputSeconds": 12.0, "goodput": 0.4, "chargedFailures": 1},
        "progress": {"step": 5, "totalSteps": 10, "loss": 1.25, "tokensPerSecond": 1.2e9, "mfu": 0.6577, "reportedAt": ago(7)}
        | {"wallTokensPerSecond": 1.1e9, "spread": 1.42},
        "evaluation": {"step": 5, "loss": 1.5},
        "checkpoints": {"latest": {"step": 4, "attempt": 2, "bytes": 7_000_000, "committedAt": ago(300)}},
    },
    budget={"gpuHours": 100},
)


def known(at: float) -> dict[str, dict[str, float]]:
    """Of STARCHAT, by panel of the dashboard and legend, at a time."""
    age = at - NOW.timestamp()
    return {
        "Stage": {"Training": 1},
        "Done": {"": 0.5},
        "Attempts": {"": 2},
        "MFU": {"": 0.6577},
        "Goodput": {"": 0.4},
        "GPU hours": {"": 12.5},
        "Loss": {"training": 1.25, "held out": 1.5},
        "Tokens a second": {"in steps": 1.2e9, "in all": 1.1e9},
        "Model FLOPs utilisation": {"": 0.6577},
        "Slowest rank": {"": 1.42},
        "Steps": {"done": 5, "in the newest checkpoint": 4, "in all": 10},
        "GPU hours, held and allowed": {"held": 12.5, "budget": 100, "planned": 0.25},
        "Ages": {"newest checkpoint": age + 300, "newest report": age + 7},
        "Size of a checkpoint": {"": 7_000_000},
        "Failures": {"charged": 1, "attempts": 2},
        "Conditions": {
            "Planned: Planned": 1,
            "Trained: Training": 0,
            "Evaluated: Waiting": 0,
            "Failed: NotFinished": 0,
            "Stalled: NotStalled": 0,
            "Reconciling: InProgress": 1,
        },
    }


def ended(reason: str, trained: tuple[str, str]) -> Json:
    """A job that failed just now."""
    found = conditions(Trained=trained, Failed=("True", reason), Stalled=("True", reason), Reconciling=("False", "Stalled"))
    return {"attempt": 1, "completionTime": ago(30), "conditions": found}


# By alert, a job in the state that it is about.
STATES = {
    "FineTuneJobStalled": job("stalled", {"conditions": conditions(Stalled=("True", "NameTaken"), Failed=("False", "NotFinished"))}),
    "FineTuneJobFailed": job("failed", ended("InvalidData", ("False", "Waiting"))),
    "FineTuneJobNotPublished": job("unpublished", ended("GateClosed", ("True", "Trained"))),
    "FineTuneJobStartsLate": job("starting", {"attempt": 1, "conditions": conditions(Trained=("False", "Starting"), **GOING_ON)}),
    "FineTuneJobRejected": job("rejected", {"attempt": 1, "conditions": conditions(Trained=("False", "Rejected"), **GOING_ON)}),
    "FineTuneJobNoProgress": job(
        "standing", {"attempt": 1, "progress": {"step": 3}, "conditions": conditions(Trained=("False", "Training"), **GOING_ON)}
    ),
    "FineTuneJobCheckpointOld": job(
        "old",
        {
            "attempt": 1,
            "conditions": conditions(Trained=("False", "Training"), **GOING_ON),
            "checkpoints": {"latest": {"step": 3, "attempt": 1, "committedAt": ago(5 * 3600)}},
        },
    ),
    "FineTuneJobBudgetNearlyUsed": job(
        "spending", {"usage": {"gpuHours": 9.5}, "conditions": conditions(**GOING_ON)}, budget={"gpuHours": 10}
    ),
}
# And one that begins attempt after attempt.
REPEATED = job("repeated", {"attempt": 1, "conditions": conditions(Trained=("False", "BackingOff"), **GOING_ON)})
# Of a job that stands still both are true.
_ALSO = {("FineTuneJobNoProgress", "starchat"), ("FineTuneJobNoProgress", "old"), ("FineTuneOperatorDown", "")}


def test_the_dashboard_of_a_job_has_its_values_and_alerts_fire_by_its_state(tmp_path: Path) -> None:
    api = ForGoClients()
    crd = yaml.safe_load((ROOT / "manifests/crd/finetunejobs.yaml").read_text(encoding="utf-8"))
    crd["status"] = {
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": ["v1alpha1"],
        "conditions": [{"type": "Established", "status": "True"}],
    }
    made(api, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    jobs = f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
    made(api, jobs, STARCHAT)
    [port] = free_ports(1)
    with (
        faulty_api(api) as server,
        kube_state_metrics(tmp_path / "state-metrics", server.kubeconfig(tmp_path), port, NAMESPACE),
        prometheus(tmp_path / "prometheus", port) as found,
    ):
        eventually("Prometheus has the job", lambda: found.ask('finetune_job_step{name="starchat"}'))
        time.sleep(1)
        at = time.time()
        assert shown(found, at) == {panel: pytest.approx(values, rel=1e-3, abs=1e-6) for panel, values in known(at).items()}
        assert {alert for alert, name in found.alerts() if alert != "FineTuneOperatorDown"} == set()

        for item in (REPEATED, *STATES.values()):
            made(api, jobs, item)
        eventually("its first attempt is seen", lambda: [s.value for s in found.ask('finetune_job_attempts{name="repeated"}')] == [1])
        for attempt in range(2, 6):
            status, body = api.call("PATCH", f"{jobs}/repeated/status", json.dumps({"status": {"attempt": attempt}}).encode())
            assert status == 200, body
        wanted = {(alert, item["metadata"]["name"]) for alert, item in STATES.items()} | {("FineTuneJobAttemptsRepeated", "repeated")}
        assert {alert for alert, _ in wanted} == alerts_of("finetune-jobs")
        eventually("all alerts fire", lambda: wanted <= found.alerts(), say=lambda: sorted(wanted - found.alerts()))
        assert found.alerts() - wanted <= _ALSO


def made(api: MemoryApi, collection: str, item: Json) -> None:
    status, body = api.call("POST", collection, json.dumps(item).encode())
    assert status == 201, body


def shown(found: Prometheus, at: float) -> dict[str, dict[str, float]]:
    """What each panel shows at a time, by its legends."""
    panels: dict[str, dict[str, float]] = {}
    for panel in JOB.panels:
        panels[panel.title] = {}
        for legend, query in panel.queries.items():
            for series in found.ask(query.replace("$namespace", NAMESPACE).replace("$name", "starchat"), at):
                told = legend
                for name, value in series.labels.items():
                    told = told.replace(f"{{{{{name}}}}}", value)
                panels[panel.title][told] = series.value
    return panels
