"""The operator's dashboard and alerts: a real Prometheus scrapes real operator processes, whose API server is in memory.

Each alert fires by its fault, and not before.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from charts.dashboards import OPERATOR
from tests.control_plane.operators import Operator, operators
from tests.control_plane.played import Admin, eventually
from tests.control_plane.prometheus import NAMESPACE, Prometheus, alerts_of, free_ports, prometheus
from tests.control_plane.scraping import Samples, port_of, quantile, scraped
from tests.operator import builders
from tests.operator.fakes import Kubelet
from tests.operator.runtime.faulty_api import Fault, faulty_api
from tests.operator.test_process import OneJobApi

from finetune_api.keys import API_VERSION, KIND
from finetune_operator import keys, kinds
from finetune_operator.runtime.api import Api
from finetune_operator.runtime.lease import LEASES

pytestmark = pytest.mark.control_plane

Values = dict[str, float]
JOBS = 4
GPUS = 16


class Watched:
    """Jobs on an API server in memory, and the Prometheus that watches their operators."""

    def __init__(self, api: Api, found: Prometheus) -> None:
        self.api = api
        self.prometheus = found
        self.admin = Admin(api, builders.NAMESPACE)

    def submit(self, name: str, **spec: Any) -> None:
        job = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": builders.spec_mapping(**spec)}
        self.api.create(kinds.FINETUNEJOBS, builders.NAMESPACE, job)

    def status(self, name: str) -> Any:
        return self.api.get(kinds.FINETUNEJOBS, builders.NAMESPACE, name).get("status", {})

    def until(self, name: str, kind: str, reason: str) -> None:
        def found() -> bool:
            return any((c["type"], c["reason"]) == (kind, reason) for c in self.status(name).get("conditions", []))

        eventually(f"{kind} is {reason} of {name}", found, say=lambda: self.status(name))

    def player(self, name: str) -> Kubelet:
        """Of a job that was submitted and whose preparation is made."""
        kubelet = Kubelet(self.admin, now=lambda: datetime.now(UTC), job=name)
        eventually(
            f"{name} is being prepared", lambda: [j for j in self.admin.of(kinds.JOBS) if f"{name}-prepare-" in j["metadata"]["name"]]
        )
        return kubelet

    def fails_once(self, name: str) -> tuple[float, float]:
        """An attempt trains and fails, and the next one is made. For how many seconds its pods were there, at least and at most."""
        self.submit(name, failurePolicy={"backoffSeconds": 1})
        kubelet = self.player(name)
        kubelet.complete(f"{name}-prepare-", builders.prepared())
        cluster = f"{name}-1-abcde"
        eventually("its RayJob", lambda: self.api.get(kinds.RAYJOBS, builders.NAMESPACE, f"{name}-1"), say=lambda: self.status(name))
        kubelet.rayjob(f"{name}-1", "Running", job="RUNNING")
        bound = kubelet.timestamp()
        since = datetime.fromisoformat(bound)
        kubelet.ray_pods(cluster, bound=bound)
        self.until(name, "Trained", "Training")
        time.sleep(3)
        kubelet.report(cluster, outcome="Running", step=1, totalSteps=10)
        eventually("its first step", lambda: self.status(name)["progress"]["step"] == 1, say=lambda: self.status(name))
        least = (datetime.now(UTC) - since).total_seconds() - 1  # times are of whole seconds
        kubelet.report(cluster, outcome="Failed", reason="TrainingFailed", message="loss is nan", step=1)
        kubelet.finish(f"{name}-1", "FAILED")
        eventually("its second RayJob", lambda: self.api.get(kinds.RAYJOBS, builders.NAMESPACE, f"{name}-2"), say=lambda: self.status(name))
        return least, (datetime.now(UTC) - since).total_seconds() + 1

    def stalls(self, name: str) -> None:
        """A stranger has a name that it needs."""
        metadata = {"name": f"{name}-finetune"}
        self.api.create(kinds.SERVICE_ACCOUNTS, builders.NAMESPACE, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        self.submit(name)
        kubelet = self.player(name)
        kubelet.pod_of(kubelet.named(kinds.JOBS, f"{name}-prepare-"))
        self.until(name, "Stalled", "NameTaken")

    def alerts(self) -> set[str]:
        return {alert for alert, _ in self.prometheus.alerts()}

    def fires(self, alert: str, say: Callable[[], object] = lambda: "") -> None:
        eventually(f"{alert} fires", lambda: alert in self.alerts(), say=lambda: (self.alerts(), say()))


def test_the_operators_dashboard_has_its_values_and_alerts_fire_by_their_faults(tmp_path: Path) -> None:
    with (
        faulty_api(OneJobApi()) as server,
        operators(tmp_path) as started,
        prometheus(tmp_path / "prometheus", free_ports(1)[0]) as found,
    ):
        kubeconfig = server.kubeconfig(tmp_path)
        watched = Watched(Api.connect(kubeconfig, user_agent="test"), found)

        def operate() -> Operator:
            operator = started.start(kubeconfig, "--operator-namespace", "default", "--concurrent-reconciles", "2")
            found.watch([operator])
            return operator

        operator = operate()
        dashboard_is_right(watched, operator)
        fired = {"FineTuneJobSeriesAbsent"}
        eventually("nobody tells of single jobs", lambda: watched.alerts() == fired, say=watched.alerts)

        server.faults.append(Fault(match="PATCH .*/status", action="refuse", status=503, times=10_000))
        for number in range(JOBS):
            watched.submit(f"unlucky-{number}")
        watched.fires("FineTuneOperatorApiErrors")
        watched.fires("FineTuneOperatorReconcilesFail")
        server.faults[:] = [Fault(match="PATCH .*/status", action="hang", times=10_000)]
        watched.fires("FineTuneOperatorQueueStuck")
        operator.kill()
        watched.fires("FineTuneOperatorDown")
        fired |= {"FineTuneOperatorApiErrors", "FineTuneOperatorReconcilesFail", "FineTuneOperatorQueueStuck", "FineTuneOperatorDown"}

        server.faults.clear()
        hold_the_lease(watched.api, seconds=3600)
        operator = operate()
        watched.fires("FineTuneOperatorNotLeading", operator.lines)
        hold_the_lease(watched.api, seconds=1)
        eventually("it leads", lambda: scraped(port_of(operator)).total("leader_election_master_status") == 1, say=operator.lines)
        assert not {"FineTuneJobStatusUnreadable", "FineTuneOperatorFault"} & watched.alerts()
        write_what_nobody_reads(watched, "warm")
        watched.fires("FineTuneJobStatusUnreadable", operator.lines)
        assert "FineTuneOperatorFault" not in watched.alerts()
        make_what_nobody_foresees(watched, "job-0")
        watched.fires("FineTuneOperatorFault", operator.lines)
        fired |= {"FineTuneOperatorNotLeading", "FineTuneJobStatusUnreadable", "FineTuneOperatorFault"}
        assert fired == alerts_of("finetune-operator")


def dashboard_is_right(watched: Watched, operator: Operator) -> None:
    """Each panel shows what the operator told us itself at the interval's two ends, or what was done to it."""
    port = port_of(operator)
    watched.submit("warm")  # calls of each kind are known before they are counted: a series' first sample is nothing to a rate
    watched.until("warm", "Prepared", "Preparing")
    eventually("it is scraped", lambda: [s.value for s in watched.prometheus.ask("finetune_status_writes_total > 0")])
    before, began = scraped(port), time.time()
    time.sleep(2)  # what changes before the interval's first sample is nothing to a rate, either
    for number in range(JOBS):
        watched.submit(f"job-{number}")
    least, most = watched.fails_once("trains")
    watched.stalls("taken")
    eventually("all are planned", lambda: scraped(port).total("finetune_jobs", stage="Preparing") == JOBS + 1, say=operator.lines)
    time.sleep(3)
    after, ended = scraped(port), time.time()
    time.sleep(1)
    assert least * GPUS <= after.total("finetune_gpu_seconds_total") <= most * GPUS
    wanted, told = known(before, after, ended - began), shown(watched.prometheus, ended, ended - began)
    assert set(told) == set(wanted)
    # Codes that came only meanwhile.
    told["Calls to the API server"] = {code: told["Calls to the API server"][code] for code in wanted["Calls to the API server"]}
    wrong = {title: (told[title], values) for title, values in wanted.items() if told[title] != pytest.approx(values, rel=0.2, abs=1e-6)}
    assert wrong == {}, wrong


def hold_the_lease(api: Api, *, seconds: int) -> None:
    """A stranger does."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    held = {"holderIdentity": "a-stranger", "leaseDurationSeconds": seconds, "renewTime": now, "acquireTime": now}
    api.merge_patch(LEASES, "default", "finetune-operator", {"spec": held})


def write_what_nobody_reads(watched: Watched, name: str) -> None:
    """As an operator with other ideas of an attempt would; a real API server's definition may allow that one day."""
    status = {"status": {"attempts": [{"number": "three"}]}}
    watched.api.merge_patch(kinds.FINETUNEJOBS, builders.NAMESPACE, name, status, subresource="status")


def make_what_nobody_foresees(watched: Watched, name: str) -> None:
    """A RayJob of the job whose status is no object."""
    job = watched.api.get(kinds.FINETUNEJOBS, builders.NAMESPACE, name)
    reference = {"apiVersion": API_VERSION, "kind": KIND, "name": name, "uid": job["metadata"]["uid"], "controller": True}
    metadata = {"name": f"{name}-9", "labels": {keys.JOB_LABEL: name}, "ownerReferences": [reference]}
    rayjob = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {}, "status": "broken"}
    watched.api.create(kinds.RAYJOBS, builders.NAMESPACE, rayjob)


def known(before: Samples, after: Samples, seconds: float) -> dict[str, Values]:
    """By panel and legend: from what the operator told us itself, at the interval's two ends."""

    def rose(name: str) -> float:
        return after.total(name) - before.total(name)

    def rates(name: str, key: str) -> Values:
        return {label: (after.by(name, key)[label] - value) / seconds for label, value in before.by(name, key).items()}

    def quantiles(histogram: str) -> Values:
        return {"median": quantile(0.5, before, after, histogram), "p99": quantile(0.99, before, after, histogram)}

    return {
        "Leaders": {"": 1},
        "Replicas": {"": 1},
        "Jobs": {"": JOBS + 3},
        "Unreadable statuses": {"": 0},
        "GPU hours of a day": {"": rose("finetune_gpu_seconds_total") / 3600},
        "Time to first step": {"": quantile(0.5, before, after, "finetune_seconds_to_first_step")},
        "Jobs by stage": after.by("finetune_jobs", "stage"),
        "Stalled and failed jobs by reason": {"Stalled: NameTaken": 1},
        "Attempts in an hour": {"begun": 2, "Failed": 1},
        "Looks at jobs": rates("controller_runtime_reconcile_total", "result"),
        "Length of a look": quantiles("controller_runtime_reconcile_time_seconds"),
        "Workers": {"at a job": 0, "in all": 2},
        "Jobs that wait for a look": {"": 0},
        "Wait for a look": quantiles("workqueue_queue_duration_seconds"),
        "Oldest look under way": {"": 0},
        "Calls to the API server": rates("rest_client_requests_total", "code"),
        "Statuses written": {"": rose("finetune_status_writes_total") / seconds},
        "Memory": {"operator-0": after.total("process_resident_memory_bytes")},
        "Processors": {"operator-0": rose("process_cpu_seconds_total") / seconds},
    }


def shown(found: Prometheus, at: float, interval: float) -> dict[str, Values]:
    """What each panel shows at a time, by its legends."""
    panels: dict[str, Values] = {}
    for panel in OPERATOR.panels:
        panels[panel.title] = {}
        for legend, query in panel.queries.items():
            asked = query.replace("$namespace", NAMESPACE).replace("$__rate_interval", f"{interval * 1000:.0f}ms")
            for series in found.ask(asked, at):
                told = legend
                for name, value in series.labels.items():
                    told = told.replace(f"{{{{{name}}}}}", value)
                panels[panel.title][told] = series.value
    return panels
