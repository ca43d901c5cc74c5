"""The real operator process on a real API server. Kubelets and KubeRay are played; Jobs and garbage are controlled for real."""

import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE
from tests.control_plane.operators import Operator
from tests.control_plane.played import eventually
from tests.control_plane.proxy import Proxy
from tests.control_plane.stage import Stage, check_life, life, operator_of_one_namespace
from tests.operator import builders

from finetune_operator import kinds
from finetune_operator.runtime.api import NotFound

pytestmark = pytest.mark.control_plane

Json = dict[str, Any]


def test_a_job_goes_from_apply_to_published_and_everything_goes_with_it(stage: Stage) -> None:
    operator = stage.operator()
    life(stage)
    check_life(stage)
    assert "Succeeded" in stage.plane.kubectl("get", "ftj", "-n", stage.namespace, "--no-headers")
    assert '"attempt": 2' in operator.lines()
    stage.api.delete(kinds.FINETUNEJOBS, stage.namespace, builders.NAME)
    assert_nothing_is_left(stage)


def assert_nothing_is_left(stage: Stage) -> None:
    """Whatever a namespace has from its beginning is all that it has."""
    made = (kinds.JOBS, kinds.PODS, kinds.RAYJOBS, kinds.FINETUNEREPORTS, kinds.ROLES, kinds.ROLE_BINDINGS)
    for resource, kept in (
        *((resource, []) for resource in made),
        (kinds.SERVICE_ACCOUNTS, ["default"]),
        (kinds.CONFIG_MAPS, ["kube-root-ca.crt"]),
    ):
        eventually(f"no {resource.plural} are left", lambda r=resource, k=kept: stage.names(r) == k)  # type: ignore[misc]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_write_the_end_is_the_same(stage: Stage, proxy: Proxy, tmp_path: Path, when: str) -> None:
    """Every process gets one new write done: `before` it dies as its second is about to be sent, `after` before the first's answer.

    A creation that a former process had done already is not new, and no patch is ever old. Reads need no deaths of their own: one
    that dies at a read leaves what one leaves that dies after the write before it, which is all that its successor finds.
    """
    kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
    guard = Guard(lambda: stage.operator(kubeconfig, "--leader-election", "false"))

    def before(request: str) -> bool:
        return guard.allows(request) if when == "before" else guard.alive()

    def after(request: str) -> bool:
        return guard.dies_after(request) if when == "after" else True

    proxy.before, proxy.after = before, after
    guard.start()
    try:
        life(stage)
    finally:
        guard.end()
    assert guard.deaths >= len(set(proxy.writes)) - 2
    check_life(stage)


class Guard:
    """Kills the operator at its writes, and starts another."""

    def __init__(self, start: Callable[[], Operator]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._over = False
        self._done = 0
        self._made: set[str] = set()
        self._operator: Operator | None = None
        self.deaths = 0

    def start(self) -> None:
        self._operator, self._done = self._start(), 0

    def end(self) -> None:
        with self._lock:
            self._over = True

    def alive(self) -> bool:
        """One write under way at a time, so that each death is at a known write."""
        with self._lock:
            return self._operator is not None and self._operator.alive

    def allows(self, request: str) -> bool:
        with self._lock:
            if self._over or request in self._made:
                return True
            if self._done >= 1:
                self._again()
                return False
            self._note(request)
            self._done += 1
            return True

    def dies_after(self, request: str) -> bool:
        with self._lock:
            if self._over or request in self._made:
                return True
            self._note(request)
            self._again()
            return False

    def _note(self, request: str) -> None:
        if request.startswith("POST "):
            self._made.add(request)

    def _again(self) -> None:
        assert self._operator is not None
        self._operator.kill()
        self.deaths += 1
        self.start()


def test_suspend_and_resume(stage: Stage) -> None:
    stage.operator()
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    stage.kubelet.ray_pods("starchat-1-abcde")
    stage.until("Trained", "False", "Training")
    stage.change(suspend=True)
    eventually(
        "the driver is asked",
        lambda: stage.api.get(kinds.FINETUNEREPORTS, stage.namespace, builders.NAME)["spec"]["stop"]["cluster"] == "starchat-1-abcde",
        say=stage.told,
    )
    stage.kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    eventually("the RayJob is deleted", lambda: stage.names(kinds.RAYJOBS) == [], say=stage.told)
    stage.kubelet.remove_ray_pods("starchat-1-abcde")
    stage.until("Suspended", "True")
    stage.change(suspend=False)
    stage.rayjob("starchat-2")
    stage.kubelet.train("starchat-2")
    stage.until("Succeeded", "True")
    assert [a["outcome"] for a in stage.status["attempts"]] == ["Stopped", "Finished"]
    assert stage.status["attempts"][1]["firstStep"] == 7


def test_who_cannot_have_all_pods_in_time_gives_back_those_it_has(stage: Stage) -> None:
    """Of three pods one doesn't run: nobody else waits for it, and it is tried again. It is nobody's failure."""
    stage.operator()
    stage.submit(workers={"nodes": 2, "startDeadlineSeconds": 8})
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Initializing")
    stage.kubelet.ray_pods("starchat-1-abcde", workers=1)
    eventually("the RayJob is deleted", lambda: "starchat-1" not in stage.names(kinds.RAYJOBS), say=stage.told)
    stage.kubelet.remove_ray_pods("starchat-1-abcde")
    stage.until("Trained", "False", "BackingOff")
    stage.rayjob("starchat-2")
    stage.kubelet.train("starchat-2")
    stage.until("Succeeded", "True")
    first, second = stage.status["attempts"]
    assert (first["outcome"], first.get("charged", False), second["outcome"]) == ("NotStarted", False, "Finished")
    assert "2 of 3 pods ran after 8 s (workers.startDeadlineSeconds)" in first["message"]


def test_a_failed_job_is_reopened_and_gone_when_its_time_has_come(stage: Stage) -> None:
    """`retry`, then `ttlSecondsAfterFinished`."""
    operator_of_one_namespace(stage)
    stage.submit(failurePolicy={"maxFailures": 0}, ttlSecondsAfterFinished=3600)
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    stage.kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    stage.kubelet.finish("starchat-1", "FAILED")
    stage.until("Failed", "True", "TooManyFailures")
    stage.change(retry=1)
    stage.rayjob("starchat-2")
    stage.kubelet.train("starchat-2")
    stage.until("Succeeded", "True")
    stage.change(ttlSecondsAfterFinished=1)
    eventually("the job is gone", lambda: stage.names(kinds.FINETUNEJOBS) == [])
    stage.api.delete(kinds.ROLES, stage.namespace, "operator")
    stage.api.delete(kinds.ROLE_BINDINGS, stage.namespace, "operator")
    assert_nothing_is_left(stage)


def test_an_identity_with_rights_in_one_namespace_is_enough(stage: Stage) -> None:
    operator_of_one_namespace(stage)
    life(stage)
    assert stage.condition("Succeeded")[0] == "True"
    assert "Forbidden" not in stage.told()


def test_a_stranger_is_not_adopted(stage: Stage) -> None:
    stage.operator()
    foreign = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "starchat-finetune"}}
    stage.api.create(kinds.SERVICE_ACCOUNTS, stage.namespace, foreign)
    stage.submit()
    stage.kubelet.complete("-prepare-", builders.prepared())
    stage.until("Stalled", "True", "NameTaken")
    assert stage.names(kinds.RAYJOBS) == []
    with pytest.raises(NotFound):
        stage.api.get(kinds.ROLES, stage.namespace, "starchat-finetune")


def test_wrong_data_is_a_condition_and_no_gpu_pod(stage: Stage) -> None:
    stage.operator()
    stage.submit()
    stage.until("Prepared", "False", "Preparing")
    eventually("the scheduler's words", lambda: "no nodes available" in str(stage.status["conditions"]), say=stage.told)
    stage.kubelet.fail("-prepare-", builders.failed())
    stage.until("Failed", "True", "InvalidData")
    assert stage.names(kinds.RAYJOBS) == []


def test_a_pod_that_nodes_evict_again_and_again_is_not_made_for_ever(stage: Stage) -> None:
    """The Job's own limit doesn't count evictions, so that nodes may be drained."""
    stage.operator()
    stage.submit()
    for _ in range(4):
        assert stage.condition("Failed")[0] != "True"
        stage.kubelet.evict("-prepare-", "The node was low on resource: ephemeral-storage.")
    stage.until("Failed", "True", "Evicted")
    assert "low on resource: ephemeral-storage" in str(stage.status["conditions"])
    eventually("the Job and its pods are gone", lambda: not [*stage.admin.of(kinds.JOBS), *stage.admin.of(kinds.PODS)], say=stage.told)


def test_what_planning_refuses_is_a_condition_and_no_pod(stage: Stage) -> None:
    stage.operator()
    for refusal in REFUSALS:
        spec = {**refusal.spec, "checkpoints": {**STORAGE, **refusal.spec.get("checkpoints", {})}}
        job = mapping(**spec)
        stage.api.create(kinds.FINETUNEJOBS, stage.namespace, job | {"metadata": {"name": refusal.name}})

    def conditions(name: str) -> dict[str, Json]:
        found = stage.api.get(kinds.FINETUNEJOBS, stage.namespace, name).get("status", {}).get("conditions", [])
        return {condition["type"]: condition for condition in found}

    for refusal in REFUSALS:
        planned = eventually(refusal.name, lambda r=refusal: conditions(r.name)["Planned"], say=stage.told)  # type: ignore[misc]
        assert (planned["status"], planned["reason"]) == ("False", refusal.reason), refusal.name
        for words in refusal.words:
            assert words in planned["message"]
    assert stage.names(kinds.JOBS) == []


def test_probes_and_metrics(stage: Stage) -> None:
    operator = stage.operator()
    stage.submit()
    stage.until("Planned", "True")
    port = eventually("a port", lambda: re.search(r'"port": (\d+)', operator.lines()))[1]
    # The count is the cache's, which hears of the status a moment after the API server has it.
    eventually(
        "the job is counted", lambda: 'finetune_jobs{reason="Preparing",stage="Preparing"} 1.0' in _curl(f"http://127.0.0.1:{port}/metrics")
    )
    metrics = _curl(f"http://127.0.0.1:{port}/metrics")
    assert 'controller_runtime_reconcile_total{controller="finetunejob"' in metrics
    assert "leader_election_master_status" in metrics
    assert "caches ok" in _curl(f"http://127.0.0.1:{port}/readyz")
    assert "workers ok" in _curl(f"http://127.0.0.1:{port}/healthz")


def _curl(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_sigterm_ends_the_program_with_code_0(stage: Stage) -> None:
    flags = ["--kubeconfig", str(stage.plane.kubeconfig), "--trainer-image", "trainer:1", "--http-port", "0", "--http-host", "127.0.0.1"]
    command = [sys.executable, "-m", "finetune_operator", *flags, "--namespaces", stage.namespace, "--operator-namespace", stage.namespace]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if '"working"' in line:
                    break
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert "lease given back" in rest
