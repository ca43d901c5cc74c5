"""`budget.gpuHours` in the life of a job."""

from typing import Any

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import HUB, prepared


def training_with_a_budget(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """16 GPUs, an attempt that runs, and a budget of an hour of them."""
    prepared(world, kubelet, budget={"gpuHours": 16}, **spec)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")


def test_a_used_up_budget_ends_the_job_with_a_checkpoint(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(120)  # the silent driver is sooner than the budget
    world.clock.advance(3599)
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(1)
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"].get("stop") is None

    world.clock.advance(2)
    world.settle()
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"]["stop"] == {"cluster": "starchat-1-abcde", "reason": "BudgetExceeded"}
    assert world.condition("Trained") == ("False", "Stopping")
    assert world.condition("Failed")[0] == "False"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]

    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    assert "budget.gpuHours is 16, and 16.00 were used" in world.message("Failed")
    assert world.names(kinds.RAYJOBS) == []
    assert [(a["outcome"], a["charged"]) for a in world.status["attempts"]] == [("Stopped", False)]
    assert world.status["usage"]["gpuHours"] == pytest.approx(16 * 3601 / 3600, abs=1e-3)
    assert [reason for reason, _ in world.events].count("Failed") == 1

    world.change(retry=1)
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded"), "the budget is still used up"
    world.change(retry=2, budget={"gpuHours": 32})
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]
    assert world.status["attempts"][1]["firstStep"] == 7


def test_a_driver_that_ignores_the_budget_has_its_time_and_no_more(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    world.clock.advance(3601)
    world.settle()
    world.clock.advance(world.settings.stop_seconds + 61)
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    assert world.names(kinds.RAYJOBS) == []


def test_a_budget_that_is_raised_in_time_stops_nothing(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    world.clock.advance(3601)
    world.settle()
    world.change(budget={"gpuHours": 17})
    world.settle()
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"].get("stop") is None
    assert world.condition("Trained") == ("False", "Training")
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_an_attempt_that_finishes_over_its_budget_is_published(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet, publish=HUB)
    world.settle()
    world.clock.advance(3601)
    world.settle()
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Trained") == ("True", "Trained")
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_no_attempt_begins_when_failed_ones_used_up_the_budget(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    world.clock.advance(3590)
    kubelet.report("starchat-1-abcde", outcome="Running", step=3)
    world.settle()
    world.clock.advance(20)
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="rank 3 died")
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded")
    assert world.status["attempts"][0]["outcome"] == "Failed"
    assert world.status["attempt"] == 1


# ---- what is counted


def test_an_attempt_counts_until_its_rayjob_ended_however_late_that_is_seen(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    world.clock.advance(600)
    kubelet.finish("starchat-1", "FAILED", message="a worker died")
    world.clock.advance(8 * 3600)  # the operator is down
    world.restart()
    world.settle()
    assert [(a["outcome"], a["charged"]) for a in world.status["attempts"]] == [("Failed", True)]
    assert "stopRequested" not in world.status["attempts"][0]
    assert world.status["usage"]["gpuHours"] == pytest.approx(16 * 600 / 3600, abs=1e-3)
    assert world.condition("Failed")[0] == "False"


def test_a_suspension_after_the_rayjob_failed_hides_no_failure(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    kubelet.finish("starchat-1", "FAILED", message="a worker died")
    world.clock.advance(60)
    world.change(suspend=True)
    world.settle()
    assert [(a["outcome"], a["charged"]) for a in world.status["attempts"]] == [("Failed", True)]


def test_a_request_to_stop_outlives_the_rayjob_that_obeyed_it(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    world.change(suspend=True)
    world.settle()
    kubelet.finish("starchat-1", "FAILED")
    world.change(suspend=False)
    world.clock.advance(60)
    world.settle()
    assert [(a["outcome"], a["charged"]) for a in world.status["attempts"][:1]] == [("Stopped", False)]


def test_an_attempt_that_nobody_saw_running_counts_from_its_drivers_start(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    world.clock.advance(600)
    started = kubelet.timestamp()
    world.clock.advance(7200)
    kubelet.finish("starchat-1", rayJobInfo={"startTime": started, "endTime": kubelet.timestamp()})
    world.clock.advance(3600)
    world.restart()
    world.settle()
    assert [a["runningTime"] for a in world.status["attempts"]] == [started]
    assert world.status["usage"]["gpuHours"] == pytest.approx(32)


def test_a_rayjob_whose_driver_never_ran_counts_nothing(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Failed")
    world.clock.advance(3600)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Failed"
    assert world.status["usage"]["gpuHours"] == 0


def test_an_attempt_counts_the_gpus_that_it_began_with(world: World, kubelet: Kubelet) -> None:
    training_with_a_budget(world, kubelet)
    world.settle()
    assert world.status["attempts"][0]["gpus"] == 16
    world.clock.advance(1800)
    kubelet.report("starchat-1-abcde", outcome="Running", step=2)
    world.change(workers={"nodes": 1, "gpusPerNode": 1}, suspend=True)
    decision = world.settle()
    assert decision is not None
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=3)
    world.settle()
    assert world.status["usage"]["gpuHours"] == pytest.approx(8)
    world.change(suspend=False)
    world.settle()
    assert world.status["attempts"][1]["gpus"] == 1


def test_attempts_without_any_goodput_count_in_it(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    for number, seconds, good in ((1, 7200, 0), (2, 3600, 3240)):
        cluster = f"starchat-{number}-abcde"
        kubelet.rayjob(f"starchat-{number}", "Running", job="RUNNING")
        kubelet.ray_pods(cluster)
        world.settle()
        world.clock.advance(seconds)
        kubelet.report(cluster, outcome="Failed", reason="TrainingFailed", step=number, goodputSeconds=good)
        kubelet.finish(f"starchat-{number}", "FAILED")
        world.settle()
        world.clock.advance(600)
        world.settle()
    assert world.status["usage"]["goodput"] == pytest.approx(0.3)


def test_a_status_of_an_older_operator_without_the_time_held_keeps_its_share(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailures": 5})
    for number, (seconds, good) in enumerate([(4000, 3600), (200, 100)], start=1):
        name = f"starchat-{number}"
        kubelet.rayjob(name, "Running", job="RUNNING")
        kubelet.ray_pods(f"{name}-abcde")
        world.settle()
        world.clock.advance(seconds)
        kubelet.report(f"{name}-abcde", outcome="Failed", reason="TrainingFailed", message="x", goodputSeconds=good)
        kubelet.finish(name, "FAILED")
        world.settle()
        job = world.job
        job["status"]["usage"].pop("heldSeconds")
        world.api.put(kinds.FINETUNEJOBS, job)
        world.restart()
        world.clock.advance(3600)
        world.settle()
    assert world.status["usage"]["goodput"] == pytest.approx(3700 / 4200, abs=0.01)
