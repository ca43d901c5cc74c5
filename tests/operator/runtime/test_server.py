"""Probes and metrics over HTTP."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.runtime.fake_clock import FakeClock

from finetune_operator.runtime.metrics import RuntimeMetrics
from finetune_operator.runtime.server import ProbeServer
from finetune_operator.runtime.workqueue import WorkQueue


class Process:
    """What the server is asked about."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.problem: str | None = None
        self.unsynced: str | None = "jobs"

    def raising(self) -> str | None:
        raise KeyError("of the check")


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def server(process: Process) -> Iterator[ProbeServer]:
    running = ProbeServer(
        port=0,
        registry=process.registry,
        healthy={"workers": lambda: process.problem, "reflector": lambda: None},
        ready={"caches": lambda: process.unsynced},
    )
    with running.serving():
        yield running


def asked(server: ProbeServer, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_names_what_is_wrong(server: ProbeServer, process: Process) -> None:
    assert asked(server, "/healthz") == (200, "[+]workers ok\n[+]reflector ok\n")
    process.problem = "worker 1 is stuck"
    assert asked(server, "/healthz") == (500, "[-]workers: worker 1 is stuck\n[+]reflector ok\n")


def test_readiness_is_apart_from_health(server: ProbeServer, process: Process) -> None:
    assert asked(server, "/readyz?verbose") == (500, "[-]caches: jobs\n")
    process.unsynced = None
    assert asked(server, "/readyz/") == (200, "[+]caches ok\n")


def test_a_check_that_raises_is_a_problem(process: Process) -> None:
    running = ProbeServer(port=0, registry=process.registry, healthy={"odd": process.raising}, ready={}, host="127.0.0.1")
    with running.serving():
        assert asked(running, "/healthz") == (500, "[-]odd: KeyError: 'of the check'\n")
        assert asked(running, "/readyz")[0] == 200


def test_anything_else_is_not_there(server: ProbeServer) -> None:
    assert asked(server, "/")[0] == 404
    assert asked(server, "/debug")[0] == 404


def test_a_client_that_says_nothing_holds_up_nobody(server: ProbeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert asked(server, "/healthz")[0] == 200


def test_metrics_have_controller_runtimes_names(server: ProbeServer, process: Process) -> None:
    metrics = RuntimeMetrics(process.registry)
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock, metrics.queue("jobs"))
    for key in ("a", "b", "c"):
        queue.add(key)
    clock.advance(5)
    queue.get()
    queue.add_rate_limited("a")
    clock.advance(50)
    queue.done("a")
    controller = metrics.controller("jobs")
    controller.reconciled("error", 0.2)
    controller.reconciled("success", 0.2)
    metrics.request("POST", "409")
    leading = metrics.leading("operator")
    code, text = asked(server, "/metrics")
    assert code == 200
    lines = text.splitlines()
    for line in (
        'workqueue_depth{name="jobs"} 3.0',  # b, c, and a again
        'workqueue_adds_total{name="jobs"} 4.0',
        'workqueue_retries_total{name="jobs"} 1.0',
        'workqueue_queue_duration_seconds_sum{name="jobs"} 5.0',
        'workqueue_work_duration_seconds_sum{name="jobs"} 50.0',
        'controller_runtime_reconcile_total{controller="jobs",result="error"} 1.0',
        'controller_runtime_reconcile_total{controller="jobs",result="success"} 1.0',
        'controller_runtime_reconcile_total{controller="jobs",result="requeue_after"} 0.0',
        'controller_runtime_reconcile_errors_total{controller="jobs"} 1.0',
        'controller_runtime_reconcile_time_seconds_count{controller="jobs"} 2.0',
        'rest_client_requests_total{code="409",method="POST"} 1.0',
        'leader_election_master_status{name="operator"} 0.0',
    ):
        assert line in lines
    leading(True)
    assert 'leader_election_master_status{name="operator"} 1.0' in asked(server, "/metrics")[1].splitlines()
