"""`suspend` in the life of a job: nothing begins, what runs commits a checkpoint and gives its GPUs back."""

from contextlib import nullcontext

import pytest

from finetune_operator import kinds
from finetune_operator.runtime.api import Forbidden

from . import builders
from .fakes import Kubelet, World, failing
from .lives import HUB, prepared, running


def test_a_suspended_job_begins_nothing(world: World, kubelet: Kubelet) -> None:
    world.submit(suspend=True)
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")
    assert world.condition("Reconciling") == ("False", "Suspended")
    assert world.names(kinds.JOBS) == []
    world.change(suspend=False)
    world.settle()
    assert world.condition("Suspended") == ("False", "NotSuspended")
    assert len(world.names(kinds.JOBS)) == 1


def test_suspending_asks_for_a_checkpoint_and_then_frees_the_gpus(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(suspend=True)
    world.settle()
    report = world.api.of(kinds.FINETUNEREPORTS)[0]
    assert report["spec"]["stop"] == {"cluster": "starchat-1-abcde", "reason": "Suspended"}
    assert world.condition("Suspended") == ("False", "Stopping")
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]

    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["attempts"][0]["outcome"] == "Stopped"
    assert world.condition("Suspended") == ("False", "Stopping")  # its pods are still there
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")

    world.change(suspend=False)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]
    assert world.status["attempts"][1]["firstStep"] == 7
    assert world.condition("Suspended")[0] == "False"


def test_a_job_that_prepares_is_suspended_when_its_pod_is_gone(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    job = kubelet.named(kinds.JOBS, "-prepare-")
    kubelet.pod_of(job)
    world.settle()
    world.change(suspend=True)
    world.look()
    assert world.condition("Suspended") == ("False", "Stopping")
    assert world.names(kinds.JOBS) == [], "its controller would make pods"
    pod = kubelet.pod_of(job, deleted=builders.CREATED)  # the garbage collector takes its time, and so does the pod
    world.settle()
    assert world.condition("Suspended") == ("False", "Stopping")
    assert world.condition("Prepared") == ("False", "Suspended")
    world.api.remove(kinds.PODS, builders.NAMESPACE, pod["metadata"]["name"])
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")
    world.change(suspend=False)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_what_a_preparation_found_that_ended_as_the_job_was_suspended_counts(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.change(suspend=True)
    world.settle()
    assert world.condition("Prepared")[0] == "True"
    assert world.condition("Suspended") == ("True", "Suspended")


def test_a_job_that_publishes_is_suspended_when_its_pod_is_gone(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB)
    kubelet.train("starchat-1")
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-publish-"))
    world.change(suspend=True)
    world.settle()
    assert [name for name in world.names(kinds.JOBS) if "-publish-" in name] == []
    assert world.condition("Suspended") == ("True", "Suspended")
    world.change(suspend=False)
    world.settle()
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_a_driver_that_does_not_stop_has_its_time_and_no_more(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(suspend=True)
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds is not None
    world.clock.advance(decision.requeue_after_seconds + 200)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["attempts"][0]["outcome"] == "Stopped"


@pytest.mark.parametrize("lost", [False, True])
def test_a_driver_that_cannot_be_asked_has_its_time_and_no_more(world: World, kubelet: Kubelet, lost: bool) -> None:
    """A policy refuses our patch of the report; or somebody deleted the report and another one may not be made."""
    running(world, kubelet)
    if lost:
        world.api.remove(kinds.FINETUNEREPORTS, *world.key)
    refused = Forbidden("admission webhook denied the request", status=403, reason="Forbidden")
    world.api.before = failing(refused, call="POST finetunereports" if lost else "PATCH finetunereports")
    world.change(suspend=True)
    for _ in range(3):
        with nullcontext() if lost else pytest.raises(Forbidden):
            world.look()
    assert world.status["attempts"][0]["stopRequested"] == "Suspended"
    world.clock.advance(world.settings.stop_seconds + 61)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["attempts"][0]["outcome"] == "Stopped"


def test_a_clock_that_is_set_back_does_not_let_a_driver_take_hours_to_stop(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(suspend=True)
    world.settle()
    world.clock.advance(-5 * 3600)
    world.settle()
    world.clock.advance(world.settings.stop_seconds + 61)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert [a["outcome"] for a in world.status["attempts"]] == ["Stopped"]
