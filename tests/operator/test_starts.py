"""Starts that fail: how many, what is told meanwhile, and what makes good for them."""

from typing import Any

import pytest

from finetune_operator import keys, kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared

NO_GPUS = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
TYPO = 'Back-off pulling image "registry.example/trainer:l"'
CLUSTER = "starchat-1-abcde"


def pending(kubelet: Kubelet, number: int, **state: Any) -> None:
    """KubeRay has made the pods of an attempt, and none runs."""
    kubelet.rayjob(f"starchat-{number}", "Initializing")
    kubelet.ray_pods(f"starchat-{number}-abcde", phase="Pending", **state)


def unpullable(world: World, cluster: str) -> None:
    for number in range(3):
        waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": TYPO}}, "name": keys.WORKER_CONTAINER}
        world.api.change(kinds.PODS, builders.NAMESPACE, f"{cluster}-{number}", status={"containerStatuses": [waiting]})


def a_start_fails(world: World, kubelet: Kubelet, number: int, *, image: bool = False, seconds: float = 1801) -> None:
    """An attempt's pods wait for the whole of its start deadline, and the next one begins."""
    pending(kubelet, number, **({} if image else {"unschedulable": NO_GPUS}))
    if image:
        unpullable(world, f"starchat-{number}-abcde")
    world.settle()
    world.clock.advance(seconds)
    world.settle()
    kubelet.remove_ray_pods(f"starchat-{number}-abcde")
    world.settle()
    world.clock.advance(900)
    world.settle()


@pytest.mark.parametrize("image", [False, True], ids=["no GPUs", "an image that can't be pulled"])
def test_starts_that_fail_in_a_row_stall_the_job_and_then_end_it(world: World, kubelet: Kubelet, image: bool) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailedStarts": 4})
    words = TYPO if image else NO_GPUS
    for number in range(1, 6):
        assert world.condition("Failed")[0] == "False"
        a_start_fails(world, kubelet, number, image=image)
        assert world.condition("Stalled")[0] == ("True" if number >= 3 else "False")
        if number >= 3:
            assert words in world.message("Stalled")
    assert world.condition("Failed") == ("True", "TooManyFailedStarts")
    assert "5 starts in a row failed, and failurePolicy.maxFailedStarts is 4" in world.message("Failed")
    assert words in world.message("Failed")
    assert world.names(kinds.RAYJOBS) == []
    assert [a["charged"] for a in world.status["attempts"]] == [False] * 5
    world.change(retry=1)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.condition("Stalled")[0] == "False"
    world.clock.advance(900)
    world.settle()
    a_start_fails(world, kubelet, 6)
    assert world.condition("Failed")[0] == "False", "five were forgiven"


def test_by_default_a_job_that_never_starts_fails_within_a_day(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    for number in range(1, 12):
        assert world.condition("Failed")[0] == "False"
        a_start_fails(world, kubelet, number)
    assert world.condition("Failed") == ("True", "TooManyFailedStarts")
    assert world.status["attempt"] == 11
    assert world.clock.monotonic() < 24 * 3600


def test_an_attempt_whose_pods_all_run_makes_good_for_those_before(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailedStarts": 3})
    for number in (1, 2, 3):
        a_start_fails(world, kubelet, number)
    assert world.condition("Stalled") == ("True", "StartDeadlineExceeded")
    kubelet.rayjob("starchat-4", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-4-abcde")
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    kubelet.report("starchat-4-abcde", outcome="Stopped", step=3)
    kubelet.finish("starchat-4", "FAILED")
    world.settle()
    assert world.status["failedStarts"] == 0
    world.clock.advance(900)
    world.settle()
    a_start_fails(world, kubelet, 5)
    assert world.condition("Failed")[0] == "False"
    assert world.status["failedStarts"] == 1


def test_a_person_who_suspends_the_job_begins_the_count_anew(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailedStarts": 3})
    for number in (1, 2, 3):
        a_start_fails(world, kubelet, number)
    world.change(suspend=True)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.condition("Suspended")[0] == "True"
    world.change(suspend=False)
    world.settle()
    assert world.status["failedStarts"] == 0


def test_a_rayjob_that_is_deleted_before_it_begins_again_and_again_is_a_start_that_fails(world: World, kubelet: Kubelet) -> None:
    """By whoever cleans up a namespace."""
    prepared(world, kubelet, failurePolicy={"maxFailedStarts": 2})
    for number in (1, 2, 3):
        kubelet.rayjob(f"starchat-{number}", "Initializing")
        world.settle()
        world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, f"starchat-{number}")
        world.settle()
        world.clock.advance(900)
        world.settle()
    assert world.condition("Failed") == ("True", "TooManyFailedStarts")
    assert "somebody deleted the RayJob" in world.message("Failed")


def test_an_image_that_cannot_be_pulled_stalls_the_job_at_once(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    pending(kubelet, 1)
    unpullable(world, CLUSTER)
    decision = world.settle()
    assert world.condition("Stalled")[0] == "False", "a registry may be slow to answer"
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(120)
    world.clock.advance(121)
    world.settle()
    assert world.condition("Stalled") == ("True", "PodsWait")
    assert TYPO in world.message("Stalled")
    assert world.condition("Trained") == ("False", "Starting")
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods(CLUSTER)
    world.settle()
    assert world.condition("Stalled")[0] == "False"


def test_what_waits_in_a_queue_fails_no_start(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"queueName": "gpus"}, failurePolicy={"maxFailedStarts": 0})
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    world.settle()
    world.clock.advance(30 * 24 * 3600)
    world.settle()
    assert world.condition("Trained") == ("False", "Queued")
    assert world.condition("Failed")[0] == "False"
    assert world.condition("Stalled")[0] == "False"


def test_kueue_that_takes_back_what_has_not_begun_fails_no_start(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailedStarts": 1})
    for number in range(1, 6):
        name = f"starchat-1-{number}"
        kubelet.rayjob("starchat-1", "Initializing", cluster=name)
        world.settle()
        world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
        kubelet.rayjob("starchat-1", "Suspended", cluster="")
        world.settle()
        world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": False})
        world.clock.advance(1000)
    assert world.condition("Failed")[0] == "False"
    assert {a["outcome"] for a in world.status["attempts"] if "outcome" in a} == {"Preempted"}


def head_ends(world: World, kubelet: Kubelet, number: int, *, exit_code: int = 127) -> None:
    """The head that KubeRay made ends at once, and is replaced by one that waits for its volumes."""
    head = f"{CLUSTER}-head-{number}"
    kubelet.ray_pod(CLUSTER, 0, keys.HEAD_CONTAINER, phase="Failed", exit_code=exit_code, name=head)
    world.settle()
    world.api.remove(kinds.PODS, builders.NAMESPACE, head)
    world.clock.advance(20)
    world.settle()


def test_a_head_that_ends_again_and_again_is_told_and_holds_no_gpus_until_the_start_deadline(world: World, kubelet: Kubelet) -> None:
    """As of an image without Ray: the next head waits for its volumes whenever somebody looks."""
    prepared(world, kubelet)
    pending(kubelet, 1)
    kubelet.remove_ray_pods(CLUSTER)
    head_ends(world, kubelet, 1)
    assert "code 127: the image lacks a command" in world.message("Trained")
    assert world.condition("Stalled")[0] == "False"
    head_ends(world, kubelet, 2)
    assert world.condition("Stalled") == ("True", "PodsWait")
    assert f"Ray in pod {CLUSTER}-head-2 ended" in world.message("Stalled")
    for number in (3, 4, 5):
        assert world.status["attempts"][0].get("outcome") is None
        head_ends(world, kubelet, number)
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("NotStarted", False)
    assert "it began 5 times in vain" in attempt["message"]
    assert "endedPods" not in attempt
    assert world.status["failedStarts"] == 1


def test_pods_that_end_together_count_once_and_a_driver_makes_good_for_them(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    pending(kubelet, 1)
    kubelet.ray_pods(CLUSTER, workers=8, phase="Failed", exit_code=1)
    world.settle()
    assert world.status["attempts"][0]["endedPods"]["count"] == 1
    world.clock.advance(60)
    kubelet.ray_pods(CLUSTER)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    assert "endedPods" not in world.status["attempts"][0]
    assert world.condition("Trained") == ("False", "Training")
