"""Attempts in the life of a job: how they start, report, end, and what comes after."""

from typing import Any

import pytest

from finetune_operator import keys, kinds
from finetune_operator.observation import KubeRay

from . import builders
from .fakes import Kubelet, World
from .lives import prepared, running


def test_failures_are_charged_and_spaced_until_the_budget_is_used_up(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, failurePolicy={"maxFailures": 1, "backoffSeconds": 30})
    for number in (1, 2):
        name = f"starchat-{number}"
        kubelet.rayjob(name, "Running", job="RUNNING")
        world.settle()
        kubelet.report(f"{name}-abcde", outcome="Failed", reason="TrainingFailed", message="a worker died")
        kubelet.finish(name, "FAILED")
        decision = world.settle()
        if number == 1:
            assert world.condition("Trained") == ("False", "BackingOff")
            assert decision is not None
            assert decision.requeue_after_seconds == pytest.approx(30)
            world.clock.advance(31)
            world.settle()
    assert world.condition("Failed") == ("True", "TooManyFailures")
    assert "a worker died" in world.message("Failed")
    assert world.status["usage"]["chargedFailures"] == 2
    assert len(world.names(kinds.RAYJOBS)) == 2
    world.change(retry=1)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    world.clock.advance(3600)
    world.settle()
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-3"
    kubelet.train("starchat-3")
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


@pytest.mark.parametrize("steps", [(4, 4), (4, 6, 4)], ids=["at once", "after another"])
def test_a_loss_that_is_not_finite_at_the_same_step_again_ends_the_job(world: World, kubelet: Kubelet, steps: tuple[int, ...]) -> None:
    """What no machine's fault explains. At another step each time it may be one."""
    prepared(world, kubelet, failurePolicy={"maxFailures": 9})
    for number, step in enumerate(steps, start=1):
        assert world.condition("Failed")[0] == "False"
        not_finite(world, kubelet, number, step)
    assert world.condition("Failed") == ("True", "NonFiniteLoss")
    assert "no machine is to blame: step 5: loss nan" in world.message("Failed")
    world.change(retry=1)
    world.settle()
    not_finite(world, kubelet, len(steps) + 1, 4)
    assert world.condition("Failed")[0] == "False", "a person has looked at it since"


def test_a_failed_attempt_keeps_its_evidence(world: World, kubelet: Kubelet) -> None:
    """Of pods that are gone a moment later."""
    running(world, kubelet)
    kubelet.ray_pod("starchat-1-abcde", 2, keys.WORKER_CONTAINER, phase="Failed", exit_code=139, node="node-7")
    lines = ["  loss.backward()", "RuntimeError: cuBLAS said no"]
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="worker 1 failed", lastLines=lines)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    attempt = world.status["attempts"][0]
    assert attempt["failure"] == "Unknown"
    assert attempt["evidence"]["lastLines"] == lines


def test_the_evidence_names_the_pod_that_ended(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.ray_pod("starchat-1-abcde", 2, keys.WORKER_CONTAINER, phase="Failed", exit_code=139, node="node-7")
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="worker 1 died")
    kubelet.rayjob("starchat-1", "Failed", job="FAILED")
    world.clock.advance(61)  # a failure that isn't the job's may be told by the nodes until then
    world.settle()
    found = world.status["attempts"][0]["evidence"]
    assert found == {"pod": "starchat-1-abcde-2", "node": "node-7", "exitCode": 139, "podReason": "Error"}


def test_a_grace_period_that_is_shorter_than_a_checkpoint_is_told(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    for step, seconds, told in ((3, 100.0, False), (4, 301.5, True), (5, 200.0, False)):
        kubelet.report("starchat-1-abcde", outcome="Running", step=step, checkpoint={"step": step, "attempt": 1, "seconds": seconds})
        world.settle()
        assert ("its newest checkpoint took 302 s, and a pod that is stopped has 240 s for one" in world.message("Trained")) is told
    assert world.status["checkpoints"]["latest"]["seconds"] == 200.0


def not_finite(world: World, kubelet: Kubelet, number: int, step: int) -> None:
    """An attempt that comes to that step; and the wait after it."""
    name = f"starchat-{number}"
    kubelet.rayjob(name, "Running", job="RUNNING")
    world.settle()
    kubelet.report(f"{name}-abcde", outcome="Failed", reason="NonFiniteLoss", message=f"step {step + 1}: loss nan", step=step)
    kubelet.finish(name, "FAILED")
    world.settle()
    world.clock.advance(3600)
    world.settle()


def test_a_job_that_was_applied_again_tells_where_it_went_on(world: World, kubelet: Kubelet) -> None:
    """Its status is new and knows no checkpoint; the driver found one in the storage."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    assert world.status["attempts"][0]["firstStep"] == 0
    kubelet.report("starchat-1-abcde", outcome="Running", firstStep=6, step=6)
    world.settle()
    assert (world.status["attempts"][0]["firstStep"], world.status["attempts"][0]["lastStep"]) == (6, 6)


@pytest.mark.parametrize("job", ["FAILED", "SUCCEEDED"])
def test_a_rayjob_that_waits_for_a_submitter_on_a_lost_node_gives_back_what_it_holds(world: World, kubelet: Kubelet, job: str) -> None:
    """KubeRay knows that the driver has ended, and keeps the pods until the submitter's pod is evicted."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    outcome = {"FAILED": {"outcome": "Failed", "reason": "WorkerLost"}, "SUCCEEDED": {"outcome": "Finished", "step": 10, "totalSteps": 10}}
    kubelet.report("starchat-1-abcde", **outcome[job])
    kubelet.rayjob("starchat-1", "Running", job=job)
    world.settle()
    world.clock.advance(16)  # a failed driver's pods may still tell why
    world.settle()
    assert "outcome" in world.status["attempts"][0]
    assert "starchat-1" in world.names(kinds.RAYJOBS), "KubeRay may be about to end it"
    world.clock.advance(21)
    world.settle()
    assert "starchat-1" not in world.names(kinds.RAYJOBS)


def test_a_permanent_failure_ends_the_job_at_once(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="RunConflict", message="the prefix is another run's", permanent=True)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    assert world.condition("Failed") == ("True", "RunConflict")
    assert world.status["attempts"][0]["outcome"] == "InvalidInput"
    world.change(retry=1)
    world.clock.advance(3600)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-2"


def test_an_attempt_that_does_not_start_gives_its_gpus_back(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", phase="Pending", unschedulable="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    decision = world.settle()
    assert world.condition("Trained") == ("False", "Starting")
    assert "Insufficient nvidia.com/gpu" in world.message("Trained")
    assert decision is not None
    assert decision.requeue_after_seconds is not None
    assert decision.requeue_after_seconds <= 100
    world.clock.advance(101)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("NotStarted", False)
    assert "Insufficient nvidia.com/gpu" in attempt["message"]
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.clock.advance(60)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]


def submitter(world: World, **state: Any) -> None:
    """The pod of the Job that KubeRay makes under the RayJob's name, and which has none of our labels."""
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "starchat-1", "uid": "made-by-kuberay"}}
    pod = builders.raw_pod("starchat-1-x7x2q", stage=keys.TRAINING, container=keys.SUBMITTER_CONTAINER, controller=job, **state)
    world.api.put(kinds.PODS, pod)


def test_a_driver_that_nobody_hands_to_ray_gives_the_gpus_back(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Running")
    kubelet.ray_pods("starchat-1-abcde")
    submitter(world, unschedulable="0/2 nodes are available: 2 Insufficient memory.")
    decision = world.settle()
    assert world.condition("Trained") == ("False", "Starting")
    assert "all pods run, Ray has no driver yet; pod starchat-1-x7x2q: Unschedulable: 0/2 nodes" in world.message("Trained")
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(100)
    world.clock.advance(101)
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("NotStarted", False)
    assert "Ray had no driver after 100 s (workers.startDeadlineSeconds): pod starchat-1-x7x2q: " in attempt["message"]
    assert world.names(kinds.RAYJOBS) == []


def test_without_a_submitter_its_job_is_named(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Running")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.clock.advance(101)
    world.settle()
    assert "see `kubectl describe job starchat-1`" in world.status["attempts"][0]["message"]


def test_a_submitter_is_none_of_the_pods_that_are_counted(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", workers=1)
    submitter(world)
    world.settle()
    assert "2 of 3 pods run" in world.message("Trained")
    assert "runningTime" not in world.status["attempts"][0]


def test_a_worker_that_is_replaced_before_ray_has_the_driver_has_its_own_time_to_start(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 600})
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.clock.advance(400)
    world.api.remove(kinds.PODS, builders.NAMESPACE, "starchat-1-abcde-2")
    kubelet.ray_pod("starchat-1-abcde", 3, keys.WORKER_CONTAINER, phase="Pending")
    world.settle()
    world.clock.advance(300)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    world.clock.advance(300)
    world.settle()
    assert "2 of 3 pods ran after 600 s" in world.status["attempts"][0]["message"]


def test_a_driver_that_reports_is_not_ended_for_a_submitter_that_waits(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Running")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.report("starchat-1-abcde", outcome="Running", step=1)
    submitter(world, unschedulable="0/2 nodes are available: 2 Insufficient memory.")
    world.settle()
    world.clock.advance(10_000)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    assert world.condition("Trained") == ("False", "Training")


def test_a_submitters_last_words_are_the_drivers(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    submitter(world, phase="Failed", exit_code=2, result=builders.failed("RunConflict", "the prefix is another run's"))
    kubelet.finish("starchat-1", "FAILED")
    world.clock.advance(11)
    world.settle()
    assert world.condition("Failed") == ("True", "RunConflict")


def test_a_deleted_rayjob_is_followed_by_another_attempt(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("Deleted", False)
    world.clock.advance(30)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]


def test_a_deleted_rayjobs_pods_commit_before_the_next_attempt(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Running", step=4)
    world.settle()
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    assert world.condition("Trained") == ("False", "Stopping")
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=5, checkpoint={"step": 5, "attempt": 1, "bytes": 9})
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"], attempt["lastStep"]) == ("Deleted", False, 5)
    assert world.status["checkpoints"]["latest"]["step"] == 5


def test_a_rayjob_that_only_the_cache_lacks_is_not_gone(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    world.restart()
    world.api.known.rayjobs.remove((builders.NAMESPACE, "starchat-1"))
    world.look()
    assert "outcome" not in world.status["attempts"][0]
    assert "GET rayjobs starchat-1" in world.api.reads


def test_kueue_suspends_and_readmits_the_same_rayjob(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, workers={"queueName": "team"})
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    kubelet.rayjob("starchat-1", "Suspended", cluster="")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Preempted"
    assert world.condition("Trained") == ("False", "Queued")
    world.clock.advance(3600)
    world.settle()
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": False})
    kubelet.rayjob("starchat-1", "Initializing", cluster="starchat-1-fghij")
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.status["attempt"] == 2
    assert world.status["attempts"][1]["rayJob"]["cluster"] == "starchat-1-fghij"
    assert "outcome" not in world.status["attempts"][1]


def test_a_queued_rayjob_has_no_start_deadline(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100, "queueName": "team"})
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    kubelet.rayjob("starchat-1", "Suspended", cluster="")
    world.settle()
    assert world.condition("Trained") == ("False", "Queued")
    world.clock.advance(10_000)
    world.settle()
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": False})
    kubelet.rayjob("starchat-1", "Initializing")
    world.settle()
    assert world.condition("Trained") == ("False", "Starting")
    world.clock.advance(101)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NotStarted"


def test_a_report_of_another_cluster_is_ignored(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    kubelet.report("starchat-1-zzzzz", outcome="Finished", step=99)
    before = world.status
    world.settle()
    assert world.status == before


def test_silence_makes_the_progress_stale_once(world: World, kubelet: Kubelet) -> None:
    """A driver that never reported can't reach the API server: it trains all the same, for as long as it likes."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(120)
    world.clock.advance(121)
    world.settle()
    assert world.status["progress"]["stale"] is True
    before = len(world.api.calls)
    world.clock.advance(10_000)
    world.settle()
    assert len(world.api.calls) == before


def test_a_driver_that_reported_and_then_says_nothing_ends_its_attempt(world: World, kubelet: Kubelet) -> None:
    """KubeRay and Ray say for ever that a job runs whose driver is stopped. The silence counts from when the operator has seen it."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    checkpoint = {"step": 4, "attempt": 1, "bytes": 10}
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10, checkpoint=checkpoint)
    world.settle()
    world.clock.advance(5000)  # the API server was away so long: the driver's next report has had no time to come
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(1200)
    kubelet.report("starchat-1-abcde", outcome="Running", step=6, totalSteps=10, checkpoint=checkpoint)
    world.settle()
    assert "staleTime" not in world.status["progress"]
    world.clock.advance(121)
    world.settle()
    world.clock.advance(1199)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    world.clock.advance(1)
    world.settle()
    ended = world.status["attempts"][0]
    assert (ended["outcome"], ended["reason"], ended["charged"]) == ("Hung", "NoProgress", False)
    assert not any(one["metadata"]["name"] == "starchat-1" for one in world.api.of(kinds.RAYJOBS)), "its pods hold GPUs"


@pytest.mark.parametrize("number", [0, 1], ids=["head", "worker"])
def test_a_lost_node_is_given_up_within_two_minutes(world: World, kubelet: Kubelet, number: int) -> None:
    """Whatever its driver does, which may live, report and wait for the lost one."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10)
    world.settle()
    lost = {"type": "Ready", "status": "False", "lastTransitionTime": kubelet.timestamp()}
    kubelet.ray_pod("starchat-1-abcde", number, [keys.HEAD_CONTAINER, keys.WORKER_CONTAINER][number], conditions=(lost,))
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds is not None
    assert decision.requeue_after_seconds <= 60
    assert world.message("Trained") == f"attempt 1 runs, but node node-1 no longer answers; pod starchat-1-abcde-{number} ran there"
    world.clock.advance(30)
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10)
    world.settle()
    world.clock.advance(31)
    world.settle()
    ended = world.status["attempts"][0]
    assert (ended["outcome"], ended["charged"]) == ("NodeLost", False)
    assert ended["message"] == f"node node-1 no longer answers; pod starchat-1-abcde-{number} ran there"
    assert not {"pods", "lost", "lostTime"} & ended.keys(), "what is followed while it runs"
    assert not any(one["metadata"]["name"] == "starchat-1" for one in world.api.of(kinds.RAYJOBS))


def test_a_node_that_trains_on_without_its_kubelet_is_let_alone(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    lost = {"type": "Ready", "status": "False", "lastTransitionTime": kubelet.timestamp()}
    kubelet.ray_pod("starchat-1-abcde", 1, keys.WORKER_CONTAINER, conditions=(lost,))
    for step in range(1, 10):
        kubelet.report("starchat-1-abcde", outcome="Running", step=step, totalSteps=10)
        world.settle()
        world.clock.advance(50)
        world.settle()
    assert "outcome" not in world.status["attempts"][0]
    kubelet.ray_pod("starchat-1-abcde", 1, keys.WORKER_CONTAINER)
    world.settle()
    assert "lost" not in world.status["attempts"][0]
    assert world.message("Trained") == "attempt 1 runs"


def test_a_pod_that_is_gone_is_named_though_kuberay_has_put_another_in_its_place(world: World, kubelet: Kubelet) -> None:
    """`kubectl delete pod --force --grace-period=0`. What remembers the pod is the status alone; nothing is charged."""
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10)
    world.settle()
    assert [pod["name"] for pod in world.status["attempts"][0]["pods"]] == [f"starchat-1-abcde-{number}" for number in range(3)]
    world.api.remove(kinds.PODS, builders.NAMESPACE, "starchat-1-abcde-2")
    kubelet.ray_pod("starchat-1-abcde", 3, keys.WORKER_CONTAINER)
    world.settle()
    world.restart()
    world.clock.advance(5)
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="worker 0 failed: Connection reset by peer")
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("NodeLost", False)
    assert attempt["message"] == "pod starchat-1-abcde-2 on node node-1 is gone: somebody deleted it, or its node"
    world.clock.advance(16)
    world.settle()
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-2", "it begins soon"


def test_pods_that_go_because_the_driver_ended_are_not_lost(world: World, kubelet: Kubelet) -> None:
    """KubeRay takes the cluster away of a job that failed; that the RayJob failed comes by another watch, and may come later."""
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert "lost" not in world.status["attempts"][0]
    kubelet.rayjob("starchat-1", "Failed", job="FAILED")
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"], attempt["message"]) == ("Failed", True, "loss is nan")


def test_a_pod_that_ran_out_of_memory_is_charged_though_kuberay_deletes_it_at_once(world: World, kubelet: Kubelet) -> None:
    """Else a job that needs more memory than it has would begin anew for ever."""
    running(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Running", step=5, totalSteps=10)
    kubelet.ray_pod("starchat-1-abcde", 1, keys.WORKER_CONTAINER, exit_code=137)
    pod = next(one for one in world.api.of(kinds.PODS) if one["metadata"]["name"] == "starchat-1-abcde-1")
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    world.api.put(kinds.PODS, pod)
    world.settle()
    world.api.remove(kinds.PODS, builders.NAMESPACE, "starchat-1-abcde-1")
    kubelet.ray_pod("starchat-1-abcde", 3, keys.WORKER_CONTAINER)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="WorkerLost", message="starchat-1-abcde-1 left Ray in the middle")
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("Failed", True)
    assert "pod starchat-1-abcde-1: the container ran out of memory" in attempt["message"]


def test_one_status_write_per_report(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    before = len(world.api.calls)
    for step in range(1, 4):
        world.clock.advance(10)
        kubelet.report("starchat-1-abcde", outcome="Running", step=step, totalSteps=10, loss=1.0 / step)
        world.settle()
    assert world.api.calls[before:] == ["PATCH finetunejobs/status starchat"] * 3


def test_a_job_waits_for_kuberay_and_starts_when_it_comes(world: World, kubelet: Kubelet) -> None:
    world.kuberay = KubeRay.ABSENT
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == 60
    assert world.condition("Trained") == ("False", "KubeRayAbsent")
    assert world.condition("Stalled") == ("True", "KubeRayAbsent")
    assert "install KubeRay" in world.message("Trained")
    assert world.status.get("attempt", 0) == 0
    world.kuberay = KubeRay.PRESENT
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.condition("Stalled")[0] == "False"


def test_a_clock_that_is_set_back_after_a_failure_delays_no_attempt(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.finish("starchat-1", "FAILED")  # by KubeRay's clock, which is right
    world.clock.advance(-5 * 3600)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Failed"
    world.clock.advance(31)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1", "starchat-2"]


def test_a_clock_that_is_set_back_begins_the_start_deadline_anew(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Initializing")
    world.settle()
    world.clock.advance(-5 * 3600)
    world.settle()
    assert "outcome" not in world.status["attempts"][0]
    world.clock.advance(101)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NotStarted"


def test_rayjobs_of_the_last_attempts_are_kept(world: World, kubelet: Kubelet) -> None:
    """Sixty preemptions leave sixty RayJobs, each of which would be read at every look."""
    prepared(world, kubelet)
    for number in range(1, 9):
        name = f"starchat-{number}"
        kubelet.rayjob(name, "Running", job="RUNNING")
        kubelet.ray_pods(f"{name}-abcde")
        world.settle()
        kubelet.report(f"{name}-abcde", outcome="Stopped", step=number)
        kubelet.finish(name, "STOPPED")
        world.settle()
        world.clock.advance(1200)
        world.settle()
        assert name in world.names(kinds.RAYJOBS), "what it ended with can be looked up"
    assert world.names(kinds.RAYJOBS) == [f"starchat-{number}" for number in (6, 7, 8, 9)]
    assert len(world.status["attempts"]) == 9
