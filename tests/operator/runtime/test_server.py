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
    """Their meaning; that none is missing is shown beside a program of controller-runtime."""
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
    queue.get()
    clock.advance(7)
    queue.get()
    clock.advance(1)
    controller = metrics.controller("jobs")
    controller.watch(4, lambda: 2)
    controller.reconciled("error", 0.2)
    controller.panicked()
    controller.reconciled("success", 0.2)
    metrics.request("POST", "409", "10.0.0.1:443")
    leading = metrics.leading("operator")
    code, text = asked(server, "/metrics")
    assert code == 200
    lines = text.splitlines()
    for line in (
        'workqueue_depth{controller="jobs",name="jobs"} 1.0',  # a again
        'workqueue_adds_total{controller="jobs",name="jobs"} 4.0',
        'workqueue_retries_total{controller="jobs",name="jobs"} 1.0',
        'workqueue_queue_duration_seconds_count{controller="jobs",name="jobs"} 3.0',
        'workqueue_work_duration_seconds_sum{controller="jobs",name="jobs"} 50.0',
        'workqueue_unfinished_work_seconds{controller="jobs",name="jobs"} 9.0',  # b for 8 s, c for 1 s
        'workqueue_longest_running_processor_seconds{controller="jobs",name="jobs"} 8.0',
        'controller_runtime_reconcile_total{controller="jobs",result="error"} 1.0',
        'controller_runtime_reconcile_total{controller="jobs",result="success"} 1.0',
        'controller_runtime_reconcile_total{controller="jobs",result="requeue"} 0.0',
        'controller_runtime_reconcile_total{controller="jobs",result="requeue_after"} 0.0',
        'controller_runtime_reconcile_errors_total{controller="jobs"} 1.0',
        'controller_runtime_reconcile_panics_total{controller="jobs"} 1.0',
        'controller_runtime_reconcile_time_seconds_count{controller="jobs"} 2.0',
        'controller_runtime_max_concurrent_reconciles{controller="jobs"} 4.0',
        'controller_runtime_active_workers{controller="jobs"} 2.0',
        'rest_client_requests_total{code="409",host="10.0.0.1:443",method="POST"} 1.0',
        'leader_election_master_status{name="operator"} 0.0',
    ):
        assert line in lines, line
    leading(True)
    assert 'leader_election_master_status{name="operator"} 1.0' in asked(server, "/metrics")[1].splitlines()
