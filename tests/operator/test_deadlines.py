"""What may not last for ever: preparation, publication, the job; with an operator and without."""

import pytest

from finetune_operator import kinds

from . import builders
from .fakes import Kubelet, World
from .lives import HUB, prepared, running

NO_CPU = "0/2 nodes are available: 2 Insufficient cpu."


# ---- preparation and publication


def test_a_preparation_that_hangs_fails_with_its_pods_words(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"))
    world.settle()
    world.clock.advance(6 * 3600 - 1)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(2)
    world.settle()
    assert world.condition("Prepared") == ("False", "DeadlineExceeded")
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert world.condition("Stalled")[0] == "True"
    assert "21600 s (budget.stageDeadlineSeconds): pod starchat-prepare-" in world.message("Failed")
    assert "runs" in world.message("Failed")
    assert world.names(kinds.JOBS) == []
    world.change(budget={"stageDeadlineSeconds": 50000}, retry=1)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_deadline_that_is_raised_in_time_starts_nothing_anew(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"stageDeadlineSeconds": 100})
    world.settle()
    name = world.names(kinds.JOBS)
    world.clock.advance(90)
    world.change(budget={"stageDeadlineSeconds": 1000})
    world.settle()
    assert world.names(kinds.JOBS) == name
    world.clock.advance(20)
    world.settle()
    assert world.condition("Failed")[0] == "False"


def test_time_in_a_queue_is_no_preparation(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"stageDeadlineSeconds": 100}, cpuPods={"queueName": "cpus"})
    world.settle()
    (name,) = world.names(kinds.JOBS)
    world.api.change(kinds.JOBS, builders.NAMESPACE, name, spec={"suspend": True})
    world.clock.advance(24 * 3600)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.condition("Stalled")[0] == "False"
    world.api.change(kinds.JOBS, builders.NAMESPACE, name, spec={"suspend": False}, status={"startTime": kubelet.timestamp()})
    world.clock.advance(99)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(2)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


def test_a_preparation_that_is_done_at_last_is_done(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"stageDeadlineSeconds": 100})
    world.settle()
    world.clock.advance(101)
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.condition("Prepared")[0] == "True"


def test_a_preparation_that_waits_for_long_is_stalled_with_the_schedulers_words(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), unschedulable=NO_CPU)
    world.settle()
    world.clock.advance(1799)
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    world.clock.advance(2)
    world.settle()
    assert world.condition("Stalled") == ("True", "PodsWait")
    assert NO_CPU in world.message("Stalled")
    assert world.condition("Failed")[0] == "False"
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.condition("Stalled")[0] == "False"


def test_a_missing_secret_stalls_the_job_at_once(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    pod = kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), phase="Pending")
    waiting = {"name": "main", "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}}
    world.api.change(kinds.PODS, builders.NAMESPACE, pod["metadata"]["name"], status={"containerStatuses": [waiting]})
    world.settle()
    world.clock.advance(121)
    world.settle()
    assert world.condition("Stalled") == ("True", "PodsWait")
    assert 'secret "s3" not found' in world.message("Stalled")


def test_a_publication_that_hangs_fails_and_is_tried_again_without_training(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB, budget={"stageDeadlineSeconds": 600})
    kubelet.train("starchat-1")
    world.settle()
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-publish-"))
    world.settle()
    world.clock.advance(601)
    world.settle()
    assert world.condition("Published") == ("False", "DeadlineExceeded")
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert [name for name in world.names(kinds.JOBS) if "-publish-" in name] == []
    world.change(retry=1)
    world.settle()
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.status["attempt"] == 1


# ---- the job


def test_the_jobs_deadline_counts_preparation(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"activeDeadlineSeconds": 60})
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds is not None
    assert decision.requeue_after_seconds <= 60
    kubelet.pod_of(kubelet.named(kinds.JOBS, "-prepare-"), unschedulable=NO_CPU)
    world.settle()
    world.clock.advance(61)
    world.settle()
    assert world.condition("Prepared") == ("False", "DeadlineExceeded")
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert "budget.activeDeadlineSeconds is 60, and preparation began 61 s ago" in world.message("Failed")
    assert NO_CPU in world.message("Failed")
    assert world.names(kinds.JOBS) == []
    world.change(budget={"activeDeadlineSeconds": 600}, retry=1)
    world.settle()
    assert world.condition("Failed")[0] == "False"


def test_a_job_that_is_suspended_before_it_begins_has_all_of_its_time(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"activeDeadlineSeconds": 60}, suspend=True)
    world.settle()
    world.clock.advance(3600)
    world.change(suspend=False)
    world.settle()
    assert world.condition("Failed")[0] == "False"


def test_a_spec_that_is_mended_after_the_deadline_begins_anew(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"activeDeadlineSeconds": 60})
    world.settle()
    world.clock.advance(61)
    world.settle()
    world.change(model={"revision": "v2"})
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(59)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(2)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


def test_a_job_that_an_operator_of_before_began_counts_from_its_first_attempt(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"activeDeadlineSeconds": 600})
    job = world.job
    del job["status"]["activeTime"]
    world.api.put(kinds.FINETUNEJOBS, job)
    world.restart()
    world.clock.advance(599)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(2)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


# ---- without an operator


def carried(world: World, name: str = "starchat-1") -> int | None:
    found = world.api.objects["rayjobs", builders.NAMESPACE, name]["spec"].get("activeDeadlineSeconds")
    return int(found) if found is not None else None


def test_a_rayjob_carries_what_is_left_of_the_deadline(world: World, kubelet: Kubelet) -> None:
    world.submit(budget={"activeDeadlineSeconds": 3600})
    world.settle()
    world.clock.advance(600)
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert carried(world) == 3000
    assert "preRunningDeadlineSeconds" in world.api.objects["rayjobs", builders.NAMESPACE, "starchat-1"]["spec"]


def test_a_rayjob_carries_what_is_left_of_the_gpu_hours(world: World, kubelet: Kubelet) -> None:
    """And the time that its pods have to start, and that for a checkpoint: with an operator it is never reached."""
    prepared(world, kubelet, budget={"gpuHours": 16}, workers={"startDeadlineSeconds": 600})
    left = carried(world)
    assert left is not None
    assert 3600 + 600 + world.settings.stop_seconds <= left <= 3600 + 600 + world.settings.stop_seconds + 300


def test_without_a_budget_a_rayjob_carries_none(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    assert carried(world) is None


def kuberay_ends_it(world: World, kubelet: Kubelet, reason: str) -> None:
    """As KubeRay 1.6.2 does it: jobStatus stays what it was, and the RayCluster goes, which makes the driver commit a checkpoint."""
    words = f"The RayJob has passed the {'activeDeadlineSeconds' if reason == 'DeadlineExceeded' else 'preRunningDeadlineSeconds'}."
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    kubelet.rayjob("starchat-1", "Failed", job="RUNNING", reason=reason, message=words)
    kubelet.remove_ray_pods("starchat-1-abcde")


def test_a_deadline_that_kuberay_kept_while_the_operator_was_away_charges_nothing(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"activeDeadlineSeconds": 3600})
    world.clock.advance(3601)
    kuberay_ends_it(world, kubelet, "DeadlineExceeded")
    world.clock.advance(8 * 3600)
    world.restart()
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["reason"], attempt["charged"]) == ("Stopped", "DeadlineExceeded", False)
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert world.status["usage"]["chargedFailures"] == 0
    assert world.status["usage"]["gpuHours"] == pytest.approx(16 * 3601 / 3600, abs=1e-3)


def test_gpu_hours_that_ran_out_while_the_operator_was_away_end_the_job(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"gpuHours": 16})
    world.clock.advance(5000)
    kuberay_ends_it(world, kubelet, "DeadlineExceeded")
    world.clock.advance(3600)
    world.restart()
    world.settle()
    assert world.condition("Failed") == ("True", "BudgetExceeded")


def test_a_deadline_that_was_raised_meanwhile_costs_a_checkpoint_and_no_more(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"activeDeadlineSeconds": 3600})
    world.clock.advance(3000)
    world.change(budget={"activeDeadlineSeconds": 7200})
    world.settle()
    world.clock.advance(601)
    kuberay_ends_it(world, kubelet, "DeadlineExceeded")
    world.settle()
    world.clock.advance(11)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-2"
    assert carried(world, "starchat-2") == pytest.approx(3588, abs=12)
    assert world.status["attempts"][1]["firstStep"] == 7


def test_a_start_that_kuberay_gave_up_while_the_operator_was_away_is_a_start_that_failed(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Initializing", job="")
    world.settle()
    world.clock.advance(2000)
    kubelet.rayjob("starchat-1", "Failed", job="", reason="PreRunningDeadlineExceeded", message="preRunningDeadlineSeconds")
    world.clock.advance(3600)
    world.restart()
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["reason"], attempt["charged"]) == ("NotStarted", "StartDeadlineExceeded", False)
    assert world.status["failedStarts"] == 1


# ---- an attempt whose driver told its end


@pytest.mark.parametrize("renewed", [True, False], ids=["said again for ever", "said without a time"])
@pytest.mark.parametrize(
    ("outcome", "ended"), [("Finished", "Finished"), ("Failed", "Failed"), ("Stopped", "Preempted")], ids=["finished", "failed", "stopped"]
)
def test_a_last_word_counts_from_when_it_was_first_said(world: World, kubelet: Kubelet, outcome: str, ended: str, renewed: bool) -> None:
    """The RayJob runs on, and so may the driver: its GPUs come back all the same."""
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Running", step=3)
    world.settle()
    for _ in range(10):
        when = {} if renewed else {"reportedAt": None}
        kubelet.report("starchat-1-abcde", outcome=outcome, step=5, message="it is over", **when)
        world.settle()
        world.clock.advance(20)
        if "outcome" in world.status["attempts"][0]:
            break
    assert world.clock.monotonic() <= 160
    assert world.status["attempts"][0]["outcome"] == ended
    assert "toldTime" not in world.status["attempts"][0]
    world.settle()
    assert "starchat-1" not in world.names(kinds.RAYJOBS)


def test_a_last_word_that_was_said_while_the_operator_was_away_counts_from_then(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Finished", step=5, totalSteps=5)
    world.clock.advance(130)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Finished"


def test_a_last_word_before_the_clock_was_set_back_has_its_time_again(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Finished", step=5, totalSteps=5)
    world.settle()
    world.clock.advance(-7200)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    world.clock.advance(121)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Finished"
