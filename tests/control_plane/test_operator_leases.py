"""Who may write: several operators, leaders that sleep or lose their lease in the middle of a write, an API server that restarts."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.control_plane.operators import Operator, Operators
from tests.control_plane.played import eventually
from tests.control_plane.proxy import Proxy
from tests.control_plane.stage import HUB, Stage
from tests.operator import builders

from finetune_operator import kinds
from finetune_operator.runtime.lease import LEASES

pytestmark = pytest.mark.control_plane


def test_an_api_server_that_restarts_delays_and_changes_nothing(stage: Stage, started: Operators) -> None:
    """A leader that can't renew its lease ends, and is started again, as the kubelet would; without a lease nothing ends."""
    alone = Stage(stage.plane, started, f"{stage.namespace[:40]}-no-lease")
    with stage.deployment() as leaders, alone.deployment("--leader-election", "false") as others:
        for each in (stage, alone):
            each.submit(publish=HUB)
            each.kubelet.complete("-prepare-", builders.prepared())
            each.rayjob("starchat-1")
        stage.plane.restart_api_server()
        for each in (stage, alone):
            each.kubelet.train("starchat-1")
            each.kubelet.complete("-publish-", builders.published())
            each.until("Succeeded", "True")
    for operator in others:
        operator.kill()
    assert len(leaders) >= len(others) == 1
    for each in (stage, alone):
        assert [a["outcome"] for a in each.status["attempts"]] == ["Finished"]
        assert each.names(kinds.RAYJOBS) == ["starchat-1"]
        assert not {"KubeRayAbsent", "AttemptDeleted"} & {reason for reason, _ in each.events}


def test_of_two_operators_one_leads_and_the_other_takes_over(stage: Stage) -> None:
    first = stage.operator()
    eventually("a leader", lambda: "leading" in first.lines(), say=stage.told)
    second = stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    assert '"made"' not in second.lines()
    first.stop()
    stage.kubelet.train("starchat-1")
    stage.until("Succeeded", "True")
    assert "leading" in second.lines()
    assert stage.names(kinds.RAYJOBS) == ["starchat-1"]
    lease = stage.api.get(LEASES, stage.namespace, "finetune-operator")
    assert f"_{second.pid}_" in lease["spec"]["holderIdentity"]


class Held:
    """A write that is under way: the proxy has it, and keeps it until it is let go. `on_held` is called in between."""

    def __init__(self, proxy: Proxy, part: str) -> None:
        self._part = part
        self._there, self._go = threading.Event(), threading.Event()
        self.on_held: Callable[[], None] = lambda: None
        proxy.before = self._before

    def _before(self, request: str) -> bool:
        if self._part in request and not self._there.is_set():
            self._there.set()
            self.on_held()
            self._go.wait(300)
        return True

    def wait(self) -> None:
        assert self._there.wait(90), f"no write of {self._part}"

    def let_go(self) -> None:
        self._go.set()


def test_a_leader_that_slept_while_it_wrote_does_no_harm_when_it_wakes(stage: Stage, proxy: Proxy, tmp_path: Path) -> None:
    """It sleeps just as it makes the first attempt's RayJob. Another takes over; the write arrives when that attempt is long over."""
    first = stage.operator(proxy.kubeconfig(tmp_path / "kubeconfig"))
    eventually("a leader", lambda: "leading" in first.lines(), say=stage.told)
    held = Held(proxy, "/rayjobs/starchat-1")
    held.on_held = lambda: first.send(signal.SIGSTOP)
    stage.submit(failurePolicy={"backoffSeconds": 1})
    stage.kubelet.complete("-prepare-", builders.prepared())
    held.wait()
    second = stage.operator()
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    eventually("the attempt's RayJob was seen", lambda: stage.status["attempts"][0]["rayJob"]["cluster"], say=stage.told)
    stage.kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    stage.kubelet.finish("starchat-1", "FAILED")
    stage.rayjob("starchat-2")
    stage.admin.remove(kinds.RAYJOBS, stage.namespace, "starchat-1")
    eventually("it is gone", lambda: stage.names(kinds.RAYJOBS) == ["starchat-2"])

    before = len(proxy.writes)
    held.let_go()
    first.send(signal.SIGCONT)
    eventually("the first one ends", lambda: not first.alive, say=first.lines)
    assert [write.rpartition("/")[2] for write in proxy.writes[before:]] == ["starchat-1"]
    eventually("what came late is deleted", lambda: "starchat-1" in deleted(second), say=stage.told)
    eventually("it is gone", lambda: stage.names(kinds.RAYJOBS) == ["starchat-2"])
    stage.kubelet.train("starchat-2")
    stage.until("Succeeded", "True")
    assert [a["outcome"] for a in stage.status["attempts"]] == ["Failed", "Finished"]
    assert second.alive


def deleted(operator: Operator) -> list[str]:
    """Names of what an operator deleted, by its log."""
    lines = [json.loads(line) for line in operator.lines().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line["object"] for line in lines if line["event"] == "deleting"]


def test_a_leader_whose_lease_is_taken_while_it_writes_writes_nothing_more(stage: Stage, proxy: Proxy, tmp_path: Path) -> None:
    first = stage.operator(proxy.kubeconfig(tmp_path / "kubeconfig"))
    eventually("a leader", lambda: "leading" in first.lines(), say=stage.told)
    held = Held(proxy, "/jobs/starchat-prepare-")
    stage.submit()
    held.wait()
    thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
    stage.api.merge_patch(LEASES, stage.namespace, "finetune-operator", thief)
    eventually("the loss is noticed", lambda: "lease lost" in first.lines(), say=first.lines)
    held.let_go()
    eventually("it ends", lambda: not first.alive, say=first.lines)
    assert [write.rpartition("/")[2][:17] for write in proxy.writes] == ["starchat-prepare-"]
    assert stage.status["conditions"] == []

    stage.admin.remove(LEASES, stage.namespace, "finetune-operator")
    stage.operator()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    assert len(stage.names(kinds.JOBS)) == 1
