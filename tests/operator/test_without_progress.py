"""Attempts that others end again and again before anything is kept: nobody is charged for them, and there is an end to them."""

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import prepared


def preempted(world: World, kubelet: Kubelet, number: int, *, checkpoint: int | None = None, ran: bool = True) -> None:
    """Attempt `number` is taken away, with a checkpoint of that step if it got so far."""
    name = f"starchat-{number}"
    cluster = f"{name}-abcde"
    kubelet.rayjob(name, "Running", job="RUNNING" if ran else "")
    kubelet.ray_pods(cluster, workers=2 if ran else 1)
    world.settle()
    found = {"checkpoint": {"step": checkpoint, "attempt": number, "bytes": 1}} if checkpoint else {}
    if ran:
        kubelet.report(cluster, outcome="Stopped", step=checkpoint or 3, **found)
        kubelet.finish(name, "STOPPED")
    else:
        kubelet.remove_ray_pods(cluster)
        world.api.change(kinds.RAYJOBS, builders.NAMESPACE, name, spec={"suspend": True}, status={"jobDeploymentStatus": "Suspended"})
        world.settle()
        if name in world.names(kinds.RAYJOBS):
            world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, name)
    world.settle()
    world.clock.advance(1200)
    world.settle()


def test_preemptions_without_progress_stall_the_job_and_then_end_it(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": 11})
    for number in range(1, 12):
        preempted(world, kubelet, number)
        assert world.status["attemptsWithoutProgress"] == number
        assert world.condition("Failed")[0] == "False"
        assert world.condition("Stalled") == (("True", "NoProgress") if number >= 10 else ("False", "NotStalled"))
    assert "11 attempts in a row ended without a new checkpoint" in world.message("Stalled")
    kubelet.rayjob("starchat-12", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-12-abcde")
    world.settle()
    assert world.condition("Stalled")[0] == "False", "this one runs"
    preempted(world, kubelet, 12)
    assert world.condition("Failed") == ("True", "TooManyAttemptsWithoutProgress")
    assert "12 attempts in a row ended without a new checkpoint, and failurePolicy.maxAttemptsWithoutProgress is 11" in world.message(
        "Failed"
    )
    assert "others stopped it" in world.message("Failed")
    assert world.status["usage"]["chargedFailures"] == 0
    world.change(retry=1)
    world.settle()
    world.clock.advance(1200)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.status["attemptsWithoutProgress"] == 0
    assert world.status["attempt"] == 13


def test_a_checkpoint_begins_the_count_anew(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": 2})
    for number in range(1, 9):
        preempted(world, kubelet, number, checkpoint=number if number % 3 == 0 else None)
        assert world.status["attemptsWithoutProgress"] == number % 3
    assert world.condition("Failed")[0] == "False"
    assert world.status["attempt"] == 9


def test_the_same_checkpoint_again_is_no_progress(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": 2})
    for number in range(1, 5):
        preempted(world, kubelet, number, checkpoint=5)
    assert world.condition("Failed") == ("True", "TooManyAttemptsWithoutProgress")
    assert world.status["attempt"] == 4


def test_pods_that_are_taken_before_all_run_count_too(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": 2})
    for number in range(1, 4):
        preempted(world, kubelet, number, ran=number == 2)
    assert world.condition("Failed") == ("True", "TooManyAttemptsWithoutProgress")


def test_a_person_who_suspends_the_job_begins_the_count_anew(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": 3})
    for number in (1, 2):
        preempted(world, kubelet, number)
    world.change(suspend=True)
    world.settle()
    world.change(suspend=False)
    world.settle()
    assert world.status["attemptsWithoutProgress"] == 0


@pytest.mark.parametrize("allowed", [0, 1])
def test_what_is_allowed_is_allowed(world: World, kubelet: Kubelet, allowed: int) -> None:
    prepared(world, kubelet, failurePolicy={"maxAttemptsWithoutProgress": allowed})
    for number in range(1, allowed + 2):
        assert world.condition("Failed")[0] == "False"
        preempted(world, kubelet, number)
    assert world.condition("Failed")[0] == "True"


def test_by_default_sixty_preemptions_end_nothing() -> None:
    assert builders.finetunejob().spec.failure_policy.max_attempts_without_progress == 100
