"""The pod that hands the driver to Ray: its fate is its own."""

from typing import Any

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import running

CLUSTER = "starchat-1-abcde"
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
LOST = {
    "phase": "Failed",
    "exit_code": 137,
    "conditions": ({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "taint manager"},),
}
CRASHED = {"phase": "Failed", "exit_code": 1}
GAVE_UP = "Job submission has failed. Reason: BackoffLimitExceeded. Message: Job has reached the specified backoff limit"


def kuberay_gives_up(
    world: World, kubelet: Kubelet, *, submitter: dict[str, Any] | None, said_seconds_ago: float | None, **report: Any
) -> None:
    """As KubeRay 1.6.2 does: the RayJob is Failed for its submitter's Job, whatever the driver does, and its RayCluster goes."""
    running(world, kubelet)
    if said_seconds_ago is not None:
        kubelet.report(CLUSTER, **{"outcome": "Running", "step": 3} | report)
        world.settle()
        world.clock.advance(said_seconds_ago)
    if submitter is not None:
        kubelet.submitter("starchat-1", **submitter)
    kubelet.rayjob("starchat-1", "Failed", job="RUNNING", reason="SubmissionFailed", message=GAVE_UP)
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    world.clock.advance(11)
    world.settle()


@pytest.mark.parametrize(
    ("submitter", "seconds", "outcome", "words"),
    [
        (EVICTED, 3, "Preempted", "The node was low on resource: memory."),
        (EVICTED, None, "Preempted", "The node was low on resource: memory."),
        (LOST, 3, "Preempted", "DeletionByTaintManager"),
        (CRASHED, 3, "Preempted", "the driver was at work"),
        (None, 3, "Preempted", "the driver was at work"),
        (CRASHED, 3000, "Failed", "Job submission has failed"),
        (CRASHED, None, "Failed", "Job submission has failed"),
    ],
    ids=["evicted", "evicted, and no report", "its node lost", "it crashed", "it is gone", "driver silent for long", "no driver"],
)
def test_a_submitter_that_others_took_charges_nothing(
    world: World, kubelet: Kubelet, submitter: dict[str, Any] | None, seconds: float | None, outcome: str, words: str
) -> None:
    kuberay_gives_up(world, kubelet, submitter=submitter, said_seconds_ago=seconds)
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == (outcome, outcome == "Failed")
    assert words in attempt["message"]
    assert (attempt["reason"] == "SubmitterLost") is (outcome == "Preempted")


def test_what_the_driver_said_of_its_end_counts_all_the_same(world: World, kubelet: Kubelet) -> None:
    kuberay_gives_up(
        world, kubelet, submitter=EVICTED, said_seconds_ago=3, outcome="Failed", reason="TrainingFailed", message="loss is nan"
    )
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("Failed", True)
    assert "loss is nan" in attempt["message"]


def test_the_driver_commits_before_the_next_attempt_begins(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.report(CLUSTER, outcome="Running", step=3)
    world.settle()
    kubelet.submitter("starchat-1", **EVICTED)
    kubelet.rayjob("starchat-1", "Failed", job="RUNNING", reason="SubmissionFailed", message=GAVE_UP)
    for number in range(3):
        later = {"deletionTimestamp": "2026-11-23T10:05:00Z"}
        world.api.change(kinds.PODS, builders.NAMESPACE, f"{CLUSTER}-{number}", metadata=later)
    world.settle()
    world.clock.advance(60)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    kubelet.report(CLUSTER, outcome="Stopped", step=4, checkpoint={"step": 4, "attempt": 1})
    kubelet.remove_ray_pods(CLUSTER)
    world.settle()
    assert world.status["attempts"][0]["reason"] == "SubmitterLost"
    world.clock.advance(60)
    world.settle()
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-2"
    assert world.status["attempts"][1]["firstStep"] == 4


def test_an_evicted_submitter_that_another_follows_ends_nothing(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.report(CLUSTER, outcome="Running", step=3)
    kubelet.submitter("starchat-1", **EVICTED)
    kubelet.submitter("starchat-1", number=2, phase="Running")
    world.settle()
    world.clock.advance(100)
    kubelet.report(CLUSTER, outcome="Running", step=4)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    assert world.condition("Trained") == ("False", "Training")
