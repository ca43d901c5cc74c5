"""One whole process in this one, against an API in memory: what it waits for, and a KubeRay that comes later."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.runtime.fake_clock import FakeClock, eventually
from tests.operator.runtime.faulty_api import Fault, faulty_api
from tests.operator.runtime.memory_api import MemoryApi, Request

from finetune_api.times import timestamp
from finetune_operator import keys, kinds
from finetune_operator.__main__ import main
from finetune_operator.observation import KubeRay
from finetune_operator.process import PROGRESS_SECONDS, Process
from finetune_operator.runtime.api import Api
from finetune_operator.runtime.clock import Clock, SystemClock
from finetune_operator.runtime.metrics import RuntimeMetrics

from . import builders

RAYJOBS = "apis/ray.io/v1/rayjobs"
SELECTOR = "&labelSelector=finetune.dev%2Fjob"
TIMES_FASTER = 20


class QuickClock:
    """The machine's clock, many times as fast: minutes of waiting take seconds."""

    def __init__(self) -> None:
        self._real = SystemClock()

    def monotonic(self) -> float:
        return self._real.monotonic() * TIMES_FASTER

    def now(self) -> datetime:
        return self._real.now()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return self._real.wait(event, seconds / TIMES_FASTER)

    def wait_until(self, condition: threading.Condition, deadline: float | None) -> None:
        self._real.wait_until(condition, None if deadline is None else deadline / TIMES_FASTER)


class OneJobApi(MemoryApi):
    """An API in which every object belongs to the one job: it knows no selector that only asks for a label's presence.

    A CRD that goes ends the watches of it.
    """

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        return super().call(method, target.replace(SELECTOR, ""), body)

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        for line in super().watch(target.replace(SELECTOR, ""), stop):
            if Request(target).collection in self.absent:
                return
            yield line


@contextmanager
def running(
    memory: MemoryApi, folder: Path, *, clock: Clock | None = None, faults: Sequence[Fault] = (), namespaces: tuple[str, ...] | None = None
) -> Iterator[tuple[Api, Process]]:
    """An operator at work on `memory`."""
    registry = CollectorRegistry()
    with faulty_api(memory) as server:
        server.faults.extend(faults)
        api = Api.connect(server.kubeconfig(folder), user_agent="tests", timeout_seconds=5)
        settings = builders.settings(leader_election=False, http_host="127.0.0.1", http_port=0, namespaces=namespaces)
        process = Process(settings, api, clock or SystemClock(), registry, RuntimeMetrics(registry))
        stop = threading.Event()
        thread = threading.Thread(target=process.run, args=(stop,))
        thread.start()
        try:
            yield api, process
        finally:
            stop.set()
            thread.join(30)
            api.close()
        assert not thread.is_alive()


def condition(api: Api, kind: str) -> tuple[str, str]:
    conditions = api.get(kinds.FINETUNEJOBS, builders.NAMESPACE, builders.NAME).get("status", {}).get("conditions", [])
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))


def submit(api: Api, namespace: str = builders.NAMESPACE) -> None:
    job = builders.raw_job()
    job["metadata"] = {"name": builders.NAME, "namespace": namespace}
    api.create(kinds.FINETUNEJOBS, namespace, job)


def complete_preparation(api: Api) -> None:
    job: dict[str, Any] = api.list_pages(kinds.JOBS, builders.NAMESPACE)[0][0]
    labels = {"job-name": job["metadata"]["name"]}
    pod = builders.raw_pod(labels=labels, controller=job, phase="Succeeded", exit_code=0, result=builders.prepared())
    api.create(kinds.PODS, builders.NAMESPACE, pod)
    status = builders.kubernetes_job_status("Complete")
    # As of now: what the pod said is awaited then, should its watch be the slower one.
    status["conditions"][0]["lastTransitionTime"] = timestamp(datetime.now(UTC))
    api.merge_patch(kinds.JOBS, builders.NAMESPACE, job["metadata"]["name"], {"status": status}, subresource="status")


def test_a_job_is_prepared_without_kuberay_and_trains_when_it_comes(tmp_path: Path) -> None:
    memory = OneJobApi()
    memory.absent.add(RAYJOBS)
    with running(memory, tmp_path) as (api, _):
        submit(api)
        eventually(lambda: api.list_pages(kinds.JOBS, builders.NAMESPACE)[0])
        complete_preparation(api)
        eventually(lambda: condition(api, "Trained") == ("False", "KubeRayAbsent"))
        assert condition(api, "Stalled") == ("True", "KubeRayAbsent")
        memory.absent.clear()
        eventually(lambda: api.list_pages(kinds.RAYJOBS, builders.NAMESPACE)[0], 60)
        eventually(lambda: condition(api, "Stalled")[0] == "False")


def test_a_job_that_waits_starts_by_itself_when_kuberay_goes_and_comes_back(tmp_path: Path) -> None:
    memory, clock = OneJobApi(), QuickClock()
    with running(memory, tmp_path, clock=clock) as (api, process):
        eventually(lambda: process._unready() is None)
        memory.absent.add(RAYJOBS)
        eventually(lambda: process._kuberay(builders.NAMESPACE) is KubeRay.ABSENT, 60)
        submit(api)
        eventually(lambda: api.list_pages(kinds.JOBS, builders.NAMESPACE)[0])
        complete_preparation(api)
        eventually(lambda: condition(api, "Stalled") == ("True", "KubeRayAbsent"))
        looks_of_preparation = clock.monotonic() + 31
        eventually(lambda: clock.monotonic() > looks_of_preparation)
        memory.absent.clear()
        eventually(lambda: api.list_pages(kinds.RAYJOBS, builders.NAMESPACE)[0], 60)
        eventually(lambda: condition(api, "Stalled")[0] == "False")


def test_a_namespace_that_may_not_be_read_holds_up_its_own_jobs_alone(tmp_path: Path) -> None:
    lost = Fault(match="GET .*/namespaces/other/(pods|rayjobs)", action="refuse", status=403, times=10**6)
    with running(OneJobApi(), tmp_path, clock=QuickClock(), faults=[lost], namespaces=(builders.NAMESPACE, "other")) as (api, process):
        submit(api, "other")
        submit(api)
        eventually(lambda: api.list_pages(kinds.JOBS, builders.NAMESPACE)[0])
        complete_preparation(api)
        eventually(lambda: api.list_pages(kinds.RAYJOBS, builders.NAMESPACE)[0])
        assert process._kuberay("other") is KubeRay.FORBIDDEN
        assert api.list_pages(kinds.JOBS, "other")[0] == [], "what is missing there would be taken for gone"
        lost.times = 0
        eventually(lambda: api.list_pages(kinds.JOBS, "other")[0], 60)
        eventually(lambda: process._kuberay("other") is KubeRay.PRESENT, 60)


def test_no_job_is_looked_at_before_all_caches_are_full(tmp_path: Path) -> None:
    memory = OneJobApi()
    memory.absent.add("api/v1/pods")
    with running(memory, tmp_path) as (api, process):
        submit(api)
        eventually(lambda: "pods are not listed yet" in str(process._unready()))
        assert condition(api, "Planned") == ("", "")
        assert api.list_pages(kinds.JOBS, builders.NAMESPACE)[0] == []


def test_who_does_not_lead_keeps_no_queue(tmp_path: Path) -> None:
    """Nobody takes from it; all jobs are put there when leading begins."""
    registry = CollectorRegistry()
    with faulty_api(OneJobApi()) as server:
        api = Api.connect(server.kubeconfig(tmp_path), user_agent="tests")
        process = Process(builders.settings(), api, SystemClock(), registry, RuntimeMetrics(registry))
        process._job_changed(None, builders.raw_job())
        process._state_changed()
        api.close()
    assert len(process._queue) == 0


def test_a_kubeconfig_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["finetune-operator", "--trainer-image", "t:1", "--kubeconfig", str(tmp_path / "none")])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit, match="give --kubeconfig"):
        main()


def test_a_line_of_the_log_says_which_job_and_attempt(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import structlog\n"
        "from finetune_operator import logs\n"
        "from finetune_operator.settings import Settings\n"
        "logs.configure(Settings(trainer_image='t:1'))\n"
        "with structlog.contextvars.bound_contextvars(namespace='ml', name='starchat', attempt=2):\n"
        "    structlog.get_logger().info('made', kind='RayJob')\n"
        "import logging; logging.getLogger('urllib3').warning('retrying')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["namespace"], first["name"], first["attempt"], first["kind"]) == ("ml", "starchat", 2, "RayJob")
    assert second["event"] == "retrying"


def test_progress_waits_and_an_end_does_not(tmp_path: Path) -> None:
    """Half a minute is longer than this test waits."""
    registry = CollectorRegistry()
    with faulty_api(OneJobApi()) as server:
        api = Api.connect(server.kubeconfig(tmp_path), user_agent="tests")
        clock = FakeClock()
        process = Process(builders.settings(), api, clock, registry, RuntimeMetrics(registry))
        process._leads = True
        process._looked[builders.NAMESPACE, builders.NAME] = clock.monotonic()
        labels = {keys.JOB_LABEL: builders.NAME}
        metadata = {"name": builders.NAME, "namespace": builders.NAMESPACE, "labels": labels}
        reports = [{"metadata": metadata, "status": {"outcome": outcome, "step": step}} for outcome, step in OUTCOMES]
        process._report_changed(reports[0], reports[1])
        assert len(process._queue) == 0
        clock.advance(PROGRESS_SECONDS - 1)
        process._report_changed(reports[1], reports[2])
        assert len(process._queue) == 0
        clock.advance(1)
        assert len(process._queue) == 1
        assert process._queue.get(timeout=0) == (builders.NAMESPACE, builders.NAME)
        process._queue.done((builders.NAMESPACE, builders.NAME))
        process._report_changed(reports[2], reports[3])
        assert len(process._queue) == 1
        api.close()


OUTCOMES = (("Running", 1), ("Running", 2), ("Running", 3), ("Failed", 3))
