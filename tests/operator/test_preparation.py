"""Preparation in the life of a job: its pod waits, fails, vanishes, is evicted."""

from typing import Any

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import evicted_too_often


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"phase": "Pending", "unschedulable": "0/2 nodes are available: 2 Insufficient cpu."}, "Insufficient cpu"),
    ],
)
def test_a_preparation_pod_that_waits_is_told(world: World, kubelet: Kubelet, state: dict[str, Any], words: str) -> None:
    world.submit()
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), **state)
    world.settle()
    assert world.condition("Prepared") == ("False", "Preparing")
    assert words in world.message("Prepared")


def test_wrong_data_fails_the_job_with_the_pods_words(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.fail("-prepare-", builders.failed())
    world.settle()
    assert world.condition("Prepared") == ("False", "InvalidData")
    assert world.condition("Failed") == ("True", "InvalidData")
    assert world.condition("Stalled") == ("True", "InvalidData")
    assert "row 3" in world.message("Failed")
    assert world.names(kinds.RAYJOBS) == []


def test_a_failed_preparation_is_tried_again_when_retry_is_raised(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.fail("-prepare-", builders.failed())
    world.settle()
    world.change(retry=1)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.status["observedRetry"] == 1
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_failed_preparation_begins_again_when_the_spec_changes(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.fail("-prepare-", builders.failed())
    world.settle()
    world.change(model={"revision": "v2"})
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert "completionTime" not in world.status
    assert world.condition("Prepared") == ("False", "Preparing")


def test_a_preparation_whose_pod_vanished_runs_again(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    pod = world.names(kinds.PODS)[0]
    world.api.remove(kinds.PODS, builders.NAMESPACE, pod)
    world.settle()
    assert "awaited" in world.message("Prepared")
    world.clock.advance(60)
    world.settle()
    assert world.api.calls.count(f"DELETE jobs {world.names(kinds.JOBS)[0]}") == 1
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_preparation_that_is_evicted_again_and_again_fails(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    evicted_too_often(world, kubelet, "-prepare-")
    assert world.condition("Prepared") == ("False", "Evicted")
    assert [reason for reason, _ in world.events].count("Failed") == 1
    world.change(cpuPods={"resources": {"requests": {"ephemeral-storage": "50Gi"}}})
    world.settle()
    assert world.condition("Failed")[0] == "False"
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_garbage_in_a_termination_message_fails_the_job(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", "all done!")
    world.settle()
    assert world.condition("Failed") == ("True", "ResultUnreadable")


@pytest.mark.parametrize(("evaluation", "told"), [({"samples": {}}, True), ({}, False)], ids=["with an evaluation", "without one"])
def test_an_image_from_before_evaluations_is_named_as_a_cause(
    world: World, kubelet: Kubelet, evaluation: dict[str, Any], told: bool
) -> None:
    world.submit(evaluation=evaluation)
    world.settle()
    kubelet.fail("-prepare-", "usage: python -m finetune_assistant.pods evaluate", exit_code=2)
    world.settle()
    assert world.condition("Failed") == ("True", "PreparationFailed")
    assert ("spec.workers.image or spec.cpuPods.image" in world.message("Failed")) == told
