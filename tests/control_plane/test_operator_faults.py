"""What a network, clocks and upgrades do to a job's life: nothing that lasts, nothing twice. And looking again writes nothing."""

import itertools
import time
from pathlib import Path
from typing import Any, Final

import pytest
from tests.control_plane.in_process import Inside, SetClock, operating
from tests.control_plane.played import eventually
from tests.control_plane.proxy import Fault, Proxy, Script
from tests.control_plane.stage import HUB, Stage, check_life, life
from tests.operator import builders

from finetune_operator import kinds
from finetune_operator.runtime.lease import LEASES

pytestmark = pytest.mark.control_plane

Json = dict[str, Any]

PASS: Final = Fault(action="pass")
CONFLICT: Final = Fault(action="refuse", status=409)
GONE: Final = Fault(action="refuse", status=410)
BUSY: Final = Fault(action="refuse", status=429, retry_after=1)
ERROR: Final = Fault(action="refuse", status=500)
CUT: Final = Fault(action="cut")
LOST: Final = Fault(action="lose")
LATE: Final = Fault(action="late", seconds=4)  # longer than the operator of these tests waits for an answer
DROP: Final = Fault(action="drop")
EXPIRED: Final = Fault(action="expired")
SILENT: Final = Fault(action="silent")

# The first requests of each kind meet these, in order. A look that fails is waited for twice as long each time: more than a dozen
# without one that succeeds would take minutes.
FAULTS: Final = {
    "LIST finetunejobs": [BUSY],
    "LIST pods": [ERROR],
    "LIST rayjobs": [CUT],
    "WATCH finetunejobs": [DROP, GONE],
    "WATCH jobs": [EXPIRED, DROP],
    "WATCH rayjobs": [DROP, SILENT],
    "WATCH pods": [BUSY, DROP],
    "WATCH finetunereports": [ERROR, DROP, SILENT],
    "DRY-RUN rayjobs": [ERROR, LATE],
    "DRY-RUN jobs": [BUSY, CUT],
    "POST jobs": [BUSY, LOST, LATE],
    "POST configmaps": [LOST],
    "POST finetunereports": [LOST],
    "POST roles": [ERROR],
    "POST rolebindings": [LOST],
    "POST rayjobs": [LATE, LOST],
    "PATCH finetunejobs/status": [PASS, PASS, CONFLICT, PASS, LOST, PASS, ERROR, PASS, LATE, PASS, BUSY, PASS, CUT],
    "POST events": [ERROR, LOST, CUT, BUSY],
    "GET finetunejobs": [ERROR],
    "GET configmaps": [CUT],
    "PUT leases": [CONFLICT, PASS, ERROR, PASS, LOST, PASS, PASS, CUT],
}


def test_a_life_through_everything_that_a_network_does(stage: Stage, proxy: Proxy, tmp_path: Path) -> None:
    proxy.fault = script = Script(FAULTS)
    with operating(proxy.kubeconfig(tmp_path / "kubeconfig"), stage.namespace, impatient=True) as inside:
        life(stage)
        eventually("every fault", lambda: not script.left, say=lambda: script.left)
        # Events come in order, and one that couldn't be made comes with a later look.
        eventually("the last event", lambda: "Succeeded" in [reason for reason, _ in stage.events], say=stage.told)
        assert inside.leads
    assert inside.kept, "the lease was lost"
    check_life(stage)


def test_clocks_that_are_set_by_hours_stop_nothing_and_begin_nothing_twice(stage: Stage) -> None:
    clock = SetClock()
    with operating(stage.plane.kubeconfig, stage.namespace, clock=clock) as inside:
        stage.submit(
            publish=HUB, failurePolicy={"backoffSeconds": 2}, budget={"activeDeadlineSeconds": 360000, "stageDeadlineSeconds": 360000}
        )
        clock.jump(6)
        stage.kubelet.complete("-prepare-", builders.prepared())
        stage.rayjob("starchat-1")
        clock.jump(-12)  # the attempt began in what is now the future
        stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
        stage.kubelet.ray_pods("starchat-1-abcde")
        eventually("the pods were seen", lambda: stage.status["attempts"][0]["runningTime"], say=stage.told)
        stage.kubelet.finish("starchat-1", "FAILED")  # without a report, hours from now
        eventually("the attempt ended", lambda: stage.status["attempts"][0]["outcome"], say=stage.told)
        clock.jump(-6)  # and so did its end
        stage.rayjob("starchat-2")
        stage.kubelet.rayjob("starchat-2", "Running", job="RUNNING")
        stage.kubelet.ray_pods("starchat-2-abcde")
        eventually("its pods were seen", lambda: stage.status["attempts"][1]["runningTime"], say=stage.told)
        clock.jump(24)
        stage.kubelet.train("starchat-2")
        stage.kubelet.complete("-publish-", builders.published())
        stage.until("Succeeded", "True")
        assert stage.api.get(LEASES, stage.namespace, "finetune-operator")["spec"]["leaseTransitions"] == 0
    assert inside.kept
    # By that clock the preparation's pod waited for hours: before it was made, and before it ran; and the driver of the second attempt
    # had ended hours before its RayJob did.
    check_life(stage, waits=2, lingering=("starchat-2",))


def test_a_second_look_writes_nothing_at_any_stage(stage: Stage, proxy: Proxy, tmp_path: Path) -> None:
    kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
    words = itertools.count()

    def rests(inside: Inside) -> None:
        """Looks follow one another until two write nothing; one that always writes fails here.

        Between these two comes what was under way: a scheduler's words about a pod, a deletion.
        """
        quiet = 0
        for _ in range(20):
            before, looks = len(proxy.writes), inside.looks
            stage.touch(f"{next(words)}")
            eventually("a look", lambda seen=looks: inside.looks > seen, say=stage.told)  # type: ignore[misc]
            quiet = quiet + 1 if len(proxy.writes) == before else 0
            if quiet == 2:
                return
            time.sleep(1.0 if quiet else 0.0)
        raise AssertionError(proxy.writes[-10:])

    def settled(kind: str, status: str, reason: str) -> None:
        """Whoever looks, writes nothing: the operator that works, and one that has just started."""
        with operating(kubeconfig, stage.namespace, leader_election=False) as inside:
            stage.until(kind, status, reason)
            rests(inside)
        before = len(proxy.writes)
        with operating(kubeconfig, stage.namespace, leader_election=False) as inside:
            eventually("a first look", lambda: inside.looks)
            stage.touch(f"{next(words)}")
            eventually("a second look", lambda: inside.looks > 1)
        assert proxy.writes[before:] == []

    stage.submit(publish=HUB)
    with operating(kubeconfig, stage.namespace, leader_election=False):
        eventually("the scheduler's words", lambda: "no nodes available" in str(stage.status["conditions"]), say=stage.told)
    settled("Prepared", "False", "Preparing")
    stage.kubelet.complete("-prepare-", builders.prepared())
    settled("Trained", "False", "Starting")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    stage.kubelet.ray_pods("starchat-1-abcde")
    stage.kubelet.report("starchat-1-abcde", outcome="Running", step=3, totalSteps=10, loss=1.5, checkpoint={"step": 3, "attempt": 1})
    settled("Trained", "False", "Training")
    stage.change(suspend=True)
    settled("Trained", "False", "Stopping")
    stage.kubelet.report("starchat-1-abcde", outcome="Stopped", step=7)
    settled("Trained", "False", "Suspended")
    stage.kubelet.remove_ray_pods("starchat-1-abcde")
    settled("Suspended", "True", "Suspended")
    stage.change(suspend=False)
    settled("Trained", "False", "Starting")
    stage.kubelet.rayjob("starchat-2", "Running", job="RUNNING")
    stage.kubelet.report("starchat-2-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=8)
    stage.kubelet.finish("starchat-2", "FAILED")
    settled("Trained", "False", "BackingOff")
    stage.change(failurePolicy={"backoffSeconds": 1})
    settled("Trained", "False", "Starting")
    stage.kubelet.train("starchat-3")
    settled("Published", "False", "Publishing")
    stage.kubelet.complete("-publish-", builders.published())
    settled("Succeeded", "True", "Succeeded")


def test_an_upgraded_operator_runs_the_frozen_run(stage: Stage) -> None:
    old = stage.operator()
    stage.submit(publish=HUB, failurePolicy={"backoffSeconds": 1})
    stage.kubelet.complete("-prepare-", builders.prepared())
    first = stage.rayjob("starchat-1")
    stage.kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    eventually("the attempt's RayJob was seen", lambda: stage.status["attempts"][0]["rayJob"]["cluster"], say=stage.told)
    run = stage.status["run"]
    old.stop()

    stage.operator(None, "--trainer-image", "trainer:2", "--ray-version", "2.61.0", "--image-pull-policy", "Always")
    stage.submit("other")
    prepared = eventually(
        "the other's preparation", lambda: [job for job in stage.admin.of(kinds.JOBS) if "other-" in job["metadata"]["name"]]
    )
    assert images(prepared[0]["spec"]["template"]) == {"trainer:2"}, "the upgrade is none"
    stage.kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    stage.kubelet.finish("starchat-1", "FAILED")
    second = stage.rayjob("starchat-2")
    for rayjob in (first, second):
        cluster = rayjob["spec"]["rayClusterSpec"]
        assert cluster["rayVersion"] == run["rayVersion"] == "2.60.0"
        templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
        assert {image for template in templates for image in images(template)} == {"trainer:1"}
        assert run["configMap"] in str(templates[0]["spec"]["volumes"])
    stage.kubelet.train("starchat-2")
    publication = stage.kubelet.named(kinds.JOBS, "-publish-")
    assert images(publication["spec"]["template"]) == {"trainer:1"}
    stage.kubelet.complete("-publish-", builders.published())
    stage.until("Succeeded", "True")
    assert stage.status["run"] == run
    assert {attempt["runDigest"] for attempt in stage.status["attempts"]} == {run["digest"]}


def images(template: Json) -> set[str]:
    """Images of a pod template's containers."""
    spec = template["spec"]
    return {container["image"] for container in [*spec.get("initContainers", []), *spec["containers"]]}
