"""Which pods are a job's own: what made them says so, whatever their labels are."""

from typing import Any

import pytest

from finetune_api.pod_result import PodResult
from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared, running

HEAD = {"ray.io/cluster": "starchat-1-abcde", keys.NODE_TYPE_LABEL: "head"}
ENDED = {"phase": "Failed", "exit_code": 2, "result": PodResult(outcome="Failed", reason="InvalidModel", message="forged", permanent=True)}
OTHERS = {
    "a copy that `kubectl debug` made": None,
    "of a RayCluster that somebody made from ours": builders.ray_cluster("mine"),
    "of a StatefulSet": {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "starchat-1-abcde", "uid": "s"}},
}


def copied_head(world: World, controller: dict[str, Any] | None, **state: Any) -> None:
    """A pod with all labels of the attempt's head."""
    pod = builders.raw_pod(
        "copy",
        stage=keys.TRAINING,
        container=keys.HEAD_CONTAINER,
        labels=HEAD,
        **({"controller": controller} if controller else {}),
        **state,
    )
    world.api.put(kinds.PODS, pod)


@pytest.mark.parametrize("controller", OTHERS.values(), ids=OTHERS)
def test_a_copied_head_neither_ends_the_attempt_nor_counts(world: World, kubelet: Kubelet, controller: dict[str, Any] | None) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde", workers=1)
    copied_head(world, controller)
    world.settle()
    assert "2 of 3 pods run" in world.message("Trained")
    copied_head(world, controller, **ENDED)
    kubelet.rayjob("starchat-1", "Failed", job="FAILED", message="application error")
    world.settle()
    world.clock.advance(120)
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "TrainingFailed"), "not InvalidInput, as the copy says"


@pytest.mark.parametrize("controller", OTHERS.values(), ids=OTHERS)
def test_a_copied_head_that_runs_keeps_no_job_from_being_suspended(
    world: World, kubelet: Kubelet, controller: dict[str, Any] | None
) -> None:
    running(world, kubelet)
    copied_head(world, controller)
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=3)
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")


def test_the_pods_of_a_cluster_that_the_rayjob_no_longer_has_are_the_jobs_own(world: World, kubelet: Kubelet) -> None:
    """The RayJob is gone, its RayCluster's pods end slowly: GPUs are held."""
    running(world, kubelet)
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=3)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.condition("Suspended") == ("False", "Stopping")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")


def test_a_pod_that_only_carries_a_preparations_labels_says_nothing(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    name = kubelet.named(kinds.JOBS, "-prepare-")["metadata"]["name"]
    forged = builders.raw_pod("copy", labels={"job-name": name}, phase="Failed", exit_code=2, result=builders.failed())
    world.api.put(kinds.PODS, forged)
    world.settle()
    assert world.condition("Failed") == ("False", "NotFinished")
    assert "about to start" in world.message("Prepared")
