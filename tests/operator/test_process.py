"""One whole process in this one, against an API in memory: what it waits for, and a KubeRay that comes later."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.runtime.fake_clock import eventually
from tests.operator.runtime.faulty_api import faulty_api
from tests.operator.runtime.memory_api import MemoryApi

from finetune_operator import kinds
from finetune_operator.__main__ import main
from finetune_operator.process import Process
from finetune_operator.runtime.api import Api
from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.metrics import RuntimeMetrics

from . import builders

RAYJOBS = "apis/ray.io/v1/rayjobs"
SELECTOR = "&labelSelector=finetune.dev%2Fjob"


class OneJobApi(MemoryApi):
    """An API in which every object belongs to the one job: it knows no selector that only asks for a label's presence."""

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        return super().call(method, target.replace(SELECTOR, ""), body)

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        return super().watch(target.replace(SELECTOR, ""), stop)


@contextmanager
def running(memory: MemoryApi, folder: Path) -> Iterator[tuple[Api, Process]]:
    """An operator at work on `memory`."""
    registry = CollectorRegistry()
    with faulty_api(memory) as server:
        api = Api.connect(server.kubeconfig(folder), user_agent="tests", timeout_seconds=5)
        settings = builders.settings(leader_election=False, http_host="127.0.0.1", http_port=0)
        process = Process(settings, api, SystemClock(), registry, RuntimeMetrics(registry))
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


def submit(api: Api) -> None:
    job = builders.raw_job()
    job["metadata"] = {"name": builders.NAME, "namespace": builders.NAMESPACE}
    api.create(kinds.FINETUNEJOBS, builders.NAMESPACE, job)


def complete_preparation(api: Api) -> None:
    job: dict[str, Any] = api.list_pages(kinds.JOBS, builders.NAMESPACE)[0][0]
    labels = {"job-name": job["metadata"]["name"]}
    pod = builders.raw_pod(labels=labels, controller=job, phase="Succeeded", exit_code=0, result=builders.prepared())
    api.create(kinds.PODS, builders.NAMESPACE, pod)
    status = builders.kubernetes_job_status("Complete")
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


def test_no_job_is_looked_at_before_all_caches_are_full(tmp_path: Path) -> None:
    memory = OneJobApi()
    memory.absent.add("api/v1/pods")
    with running(memory, tmp_path) as (api, process):
        submit(api)
        eventually(lambda: "pods are not listed yet" in str(process._unready()))
        assert condition(api, "Planned") == ("", "")
        assert api.list_pages(kinds.JOBS, builders.NAMESPACE)[0] == []


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
