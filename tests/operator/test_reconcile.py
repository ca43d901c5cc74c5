"""Whole lives of jobs on an API server in memory: each look is one reconcile, each fixed point writes nothing more."""

from typing import Any

import pytest

from finetune_operator import kinds
from finetune_operator.observation import KubeRay
from finetune_operator.runtime.api import ApiError, Conflict, Forbidden, Invalid, NotFound, ServerError

from . import builders
from .fakes import Died, Kubelet, World, failing

HUB = {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def kubelet(world: World) -> Kubelet:
    return played(world)


def played(world: World) -> Kubelet:
    return Kubelet(world.api, now=world.clock.now)


def prepared(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """A job whose first RayJob was made."""
    world.submit(**spec)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()


def test_a_job_goes_from_apply_to_published(world: World, kubelet: Kubelet) -> None:
    world.submit(publish=HUB)
    world.settle()
    assert world.condition("Planned") == ("True", "Planned")
    assert world.condition("Prepared") == ("False", "Preparing")
    assert world.condition("Reconciling") == ("True", "InProgress")
    assert [name[:17] for name in world.names(kinds.JOBS)] == ["starchat-prepare-"]
    assert world.names(kinds.RAYJOBS) == []

    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.condition("Prepared") == ("True", "Prepared")
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.status["run"]["configMap"] in world.names(kinds.CONFIG_MAPS)
    assert world.names(kinds.ROLE_BINDINGS) == ["starchat-finetune"]

    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.rayjob("starchat-1", "Running", job="RUNNING", dashboardURL="head:8265")
    checkpoint = {"step": 5, "attempt": 1, "bytes": 12, "committedAt": "2026-11-23T10:00:00Z"}
    kubelet.report(
        "starchat-1-abcde", outcome="Running", step=5, totalSteps=10, loss=1.5, tokensPerSecond=1e4, etaSeconds=4320, checkpoint=checkpoint
    )
    world.settle()
    assert world.condition("Trained") == ("False", "Training")
    assert world.status["progress"] | {"reportedAt": ""} == {
        "step": 5,
        "totalSteps": 10,
        "loss": 1.5,
        "tokensPerSecond": 1e4,
        "eta": "1h12m",
        "reportedAt": "",
        "stale": False,
    }
    assert world.status["checkpoints"]["latest"]["step"] == 5
    assert world.status["dashboard"] == "head:8265"

    kubelet.train("starchat-1", evaluation={"step": 10, "loss": 0.5})
    world.settle()
    assert world.condition("Trained") == ("True", "Trained")
    assert world.status["evaluation"]["loss"] == 0.5
    assert world.condition("Published") == ("False", "Publishing")

    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded") == ("True", "Succeeded")
    assert world.condition("Failed") == ("False", "NotFinished")
    assert world.condition("Reconciling") == ("False", "Succeeded")
    assert world.status["publication"]["revision"] == "b" * 40
    assert world.status["stage"] == "Succeeded"
    assert [reason for reason, _ in world.events] == [
        "Planned",
        "AttemptStarted",
        "Prepared",
        "AttemptRunning",
        "AttemptFinished",
        "Trained",
        "Published",
        "Succeeded",
    ]


def test_a_second_look_writes_nothing(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.train("starchat-1")
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    world.restart()
    before = len(world.api.calls)
    world.look()
    assert len(world.api.calls) == before


def life(world: World) -> None:
    """A job from apply to published, with one failed attempt; whoever calls drives the operator between the steps."""
    kubelet = played(world)
    world.submit(publish=HUB, failurePolicy={"backoffSeconds": 10})
    yield_to_operator(world)
    kubelet.complete("-prepare-", builders.prepared())
    yield_to_operator(world)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    yield_to_operator(world)
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    kubelet.finish("starchat-1", "FAILED")
    yield_to_operator(world)
    world.clock.advance(60)
    yield_to_operator(world)
    kubelet.train("starchat-2")
    yield_to_operator(world)
    kubelet.complete("-publish-", builders.published())
    yield_to_operator(world)


def yield_to_operator(world: World) -> None:
    """Let the operator work until it rests; where it dies it is started again."""
    for _ in range(5):
        try:
            world.settle()
            return
        except Died:
            world.api.before = world.api.after = lambda number, call: None
            world.clock.advance(5)  # no name may depend on when somebody looked
            world.restart()
    raise AssertionError("it dies again and again")


def end_state(world: World) -> tuple[object, ...]:
    """What has to be the same however the operator died: names of all objects, what events tell, and the status."""
    kept = sorted((plural, name) for plural, _, name in world.api.objects if plural != "events")
    told = sorted(reason for reason, _ in world.events)
    attempts = [(a["number"], a["outcome"], a["charged"]) for a in world.status["attempts"]]
    conditions = [(c["type"], c["status"], c["reason"]) for c in world.status["conditions"]]
    return kept, told, attempts, conditions, world.status["usage"]["chargedFailures"], world.status["publication"]


def test_killed_before_or_after_any_call_the_end_is_the_same() -> None:
    calm = World()
    life(calm)
    wanted, calls = end_state(calm), len(calm.api.calls)
    assert [a["outcome"] for a in calm.status["attempts"]] == ["Failed", "Finished"]
    for number in range(calls):
        for when in ("before", "after"):
            world = World()

            def die(found: int, call: str, *, fatal: int = number) -> None:
                if found == fatal:
                    raise Died

            setattr(world.api, when, die)
            life(world)
            assert end_state(world) == wanted, (number, when, calm.api.calls[number])
            made = [call for call in world.api.calls if call.startswith("POST rayjobs")]
            assert sorted(set(made)) == ["POST rayjobs starchat-1", "POST rayjobs starchat-2"]
            assert len(made) <= 3, made


def test_a_job_that_is_behind_in_the_cache_begins_no_second_attempt(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.api.behind = True
    for _ in range(6):
        try:
            world.look()
        except ApiError:
            continue
    world.api.deliver()
    world.api.behind = False
    world.settle()
    assert world.status["attempt"] == 1
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_leader_whose_cache_is_old_makes_no_rayjob(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    decision = world.look()  # attempt 1 is entered
    assert decision is not None
    assert world.names(kinds.RAYJOBS) == []
    world.api.behind = True
    other = World()
    other.api, other.clock = world.api, world.clock
    world.api.change(kinds.FINETUNEJOBS, *world.key, metadata={"labels": {"touched": "yes"}})
    with pytest.raises(ApiError, match="changed since"):
        world.look()
    assert world.names(kinds.RAYJOBS) == []


def test_after_a_conflict_the_next_look_reads_the_job_itself(world: World) -> None:
    world.submit()
    world.api.behind = True  # its watch is down
    world.api.change(kinds.FINETUNEJOBS, *world.key, metadata={"labels": {"touched": "yes"}})
    with pytest.raises(Conflict):
        world.look()
    world.look()
    assert world.condition("Planned") == ("True", "Planned")


# ---- planning


def test_a_plan_that_is_refused_makes_no_object_and_is_looked_at_again(world: World) -> None:
    world.submit(training={"globalBatchSize": 100, "method": "lora"})
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert world.condition("Reconciling") == ("False", "Stalled")
    assert world.condition("Failed")[0] == "False"
    assert "spec.training.method" in world.message("Planned")
    assert "spec.training.globalBatchSize" in world.message("Planned")
    assert {call.split()[1] for call in world.api.calls} == {"finetunejobs/status", "events"}
    world.change(training={"globalBatchSize": 256, "method": "full"})
    world.settle()
    assert world.condition("Planned") == ("True", "Planned")
    assert world.condition("Stalled") == ("False", "NotStalled")
    assert world.status["observedGeneration"] == 2


def test_what_cannot_fit_is_refused_after_preparation(world: World, kubelet: Kubelet) -> None:
    world.submit(training={"maxSequenceLength": 4096})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())  # the model has 2048 positions
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert world.condition("Stalled")[0] == "True"
    assert world.names(kinds.RAYJOBS) == []
    assert world.names(kinds.CONFIG_MAPS) == []
    world.change(training={"maxSequenceLength": 1024})
    world.settle()
    assert world.condition("Prepared") == ("False", "Preparing")


def test_a_spec_that_changes_before_the_first_attempt_is_prepared_again(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    first = world.names(kinds.JOBS)
    world.change(model={"revision": "v2"})
    world.settle()
    assert len(world.names(kinds.JOBS)) == 1
    assert world.names(kinds.JOBS) != first
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


# ---- preparation


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


def test_garbage_in_a_termination_message_fails_the_job(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", "all done!")
    world.settle()
    assert world.condition("Failed") == ("True", "ResultUnreadable")


# ---- attempts


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


def test_a_deleted_rayjob_is_followed_by_another_attempt(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    attempt = world.status["attempts"][0]
    assert (attempt["outcome"], attempt["charged"]) == ("Deleted", False)
    world.clock.advance(30)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-2"]


def test_a_deleted_rayjobs_pods_commit_before_the_next_attempt(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
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
    prepared(world, kubelet, workers={"queueName": "team"})
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
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


def test_one_status_write_per_report(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    before = len(world.api.calls)
    for step in range(1, 4):
        world.clock.advance(10)
        kubelet.report("starchat-1-abcde", outcome="Running", step=step, totalSteps=10, loss=1.0 / step)
        world.settle()
    assert world.api.calls[before:] == ["PATCH finetunejobs/status starchat"] * 3


# ---- suspend


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
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
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


def test_a_driver_that_does_not_stop_has_its_time_and_no_more(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.change(suspend=True)
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds is not None
    world.clock.advance(decision.requeue_after_seconds + 200)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["attempts"][0]["outcome"] == "Stopped"


def test_workers_that_change_while_suspended_make_another_run(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    first = world.status["run"]
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7)
    world.settle()
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    world.change(workers={"nodes": 1})
    world.settle()
    world.change(suspend=False)
    world.settle()
    second = world.status["run"]
    assert second["digest"] != first["digest"]
    assert (second["identity"], second["dataFingerprint"]) == (first["identity"], first["dataFingerprint"])
    assert world.status["plan"]["worldSize"] == 8
    rayjob = world.api.of(kinds.RAYJOBS)[0]
    assert rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 1
    assert len(world.names(kinds.CONFIG_MAPS)) == 2


def test_an_upgraded_operator_runs_the_frozen_run(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    world.settings = builders.settings(trainer_image="registry.example/trainer:2")
    world.restart()
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    world.clock.advance(60)
    world.settle()
    head = world.api.of(kinds.RAYJOBS)[0]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["image"] == "registry.example/trainer:1"
    assert len(world.names(kinds.CONFIG_MAPS)) == 1


# ---- publication and the end


def test_a_failed_publication_is_retried_without_training(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB)
    kubelet.train("starchat-1")
    world.settle()
    kubelet.fail("-publish-", builders.failed("InvalidPublication", "the token may not write"))
    world.settle()
    assert world.condition("Failed") == ("True", "InvalidPublication")
    assert world.condition("Trained")[0] == "True"
    world.change(retry=1)
    world.settle()
    assert len(world.names(kinds.JOBS)) == 2  # the preparation, and another publication
    kubelet.complete("-publish-", builders.published())
    world.settle()
    assert world.condition("Succeeded")[0] == "True"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_a_gate_refuses_a_bad_model_before_any_pod(world: World, kubelet: Kubelet) -> None:
    held_out = {"sources": [{"name": "org/data"}], "evaluation": {"fraction": 0.1}}
    prepared(world, kubelet, dataset=held_out, publish=HUB | {"gate": {"evaluationLoss": {"max": 1.0}}})
    kubelet.train("starchat-1", evaluation={"step": 10, "loss": 1.5})
    world.settle()
    assert world.condition("Evaluated") == ("True", "Evaluated")
    assert world.condition("Failed") == ("True", "GateClosed")
    assert "1.5" in world.message("Failed")
    assert not [name for name in world.names(kinds.JOBS) if "-publish-" in name]


def test_a_finished_job_is_deleted_after_its_ttl(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.train("starchat-1")
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(60)
    world.clock.advance(61)
    world.look()
    assert [place for place in world.api.objects if place[0] not in ("events", "pods")] == []
    assert world.look() is None


def test_the_deadline_ends_a_job_that_runs(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, budget={"activeDeadlineSeconds": 1000})
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.clock.advance(1001)
    world.settle()
    assert world.condition("Failed") == ("True", "DeadlineExceeded")
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["usage"]["chargedFailures"] == 0


def test_a_job_that_is_being_deleted_is_left_alone(world: World) -> None:
    raw = builders.raw_job(deleted=builders.CREATED)
    world.api.put(kinds.FINETUNEJOBS, raw)
    world.look()
    assert world.api.calls == []


# ---- what the API server refuses


def test_an_object_that_is_not_ours_is_refused(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    foreign = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "starchat-1", "namespace": builders.NAMESPACE}, "spec": {}}
    world.api.put(kinds.RAYJOBS, foreign)
    for _ in range(4):
        world.look()
    assert world.condition("Trained") == ("False", "NameTaken")
    assert world.condition("Stalled") == ("True", "NameTaken")
    assert "RayJob starchat-1" in world.message("Stalled")
    assert world.api.of(kinds.RAYJOBS)[0]["spec"] == {}
    world.api.remove(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1")
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


@pytest.mark.parametrize(
    ("error", "reason", "stalled"),
    [
        (NotFound("the server could not find the requested resource", status=404, reason="NotFound"), "KubeRayAbsent", "True"),
        (Forbidden('User "x" cannot create resource "rayjobs"', status=403, reason="Forbidden"), "KubeRayForbidden", "True"),
        (ApiError('unknown field "spec.rayClusterSpec.authOptions"', status=400, reason="BadRequest"), "KubeRayTooOld", "True"),
        (Forbidden("exceeded quota: gpus", status=403, reason="Forbidden"), "Rejected", "False"),
        (Invalid("spec is wrong", status=422, reason="Invalid"), "Rejected", "True"),
    ],
)
def test_a_refused_rayjob_is_told_and_tried_again(world: World, kubelet: Kubelet, error: ApiError, reason: str, stalled: str) -> None:
    world.submit()
    world.settle()
    world.api.before = failing(error, call="POST rayjobs")
    kubelet.complete("-prepare-", builders.prepared())
    for _ in range(4):
        decision = world.look()
    assert world.condition("Trained") == ("False", reason)
    assert world.condition("Stalled")[0] == stalled
    assert decision is not None
    assert decision.requeue_after_seconds == 30
    assert world.status["attempt"] == 1
    world.api.before = lambda number, call: None
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.condition("Stalled")[0] == "False"


def test_a_server_error_changes_nothing(world: World) -> None:
    world.submit()
    world.api.before = failing(ServerError("etcd is away", status=500), call="POST jobs")
    with pytest.raises(ServerError):
        world.look()
    assert world.status == {}


def test_a_job_waits_for_kuberay_and_starts_when_it_comes(world: World, kubelet: Kubelet) -> None:
    world.kuberay = KubeRay.ABSENT
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.condition("Trained") == ("False", "KubeRayAbsent")
    assert world.condition("Stalled") == ("True", "KubeRayAbsent")
    assert "install KubeRay" in world.message("Trained")
    assert world.status.get("attempt", 0) == 0
    world.kuberay = KubeRay.PRESENT
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.condition("Stalled")[0] == "False"


# ---- invariants


def test_no_call_touches_secrets_or_the_spec(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, publish=HUB)
    kubelet.train("starchat-1")
    world.settle()
    kubelet.complete("-publish-", builders.published())
    world.settle()
    touched = {call.split()[1] for call in [*world.api.calls, *world.api.reads]}
    assert "secrets" not in touched
    assert "PATCH finetunejobs starchat" not in world.api.calls
    assert not [call for call in world.api.calls if call.startswith(("PATCH rayjobs", "PATCH jobs", "PATCH configmaps"))]


# ---- GPU hours


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


# ---- clocks that are set


def test_a_clock_that_is_set_back_after_a_failure_delays_no_attempt(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
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


def test_a_clock_that_is_set_back_does_not_let_a_driver_take_hours_to_stop(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    world.change(suspend=True)
    world.settle()
    world.clock.advance(-5 * 3600)
    world.settle()
    world.clock.advance(world.settings.stop_seconds + 61)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert [a["outcome"] for a in world.status["attempts"]] == ["Stopped"]


def test_a_clock_that_is_set_back_postpones_no_deletion_by_hours(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.train("starchat-1")
    world.settle()
    world.clock.advance(-5 * 3600)
    decision = world.look()
    assert decision is not None
    assert decision.requeue_after_seconds == 60, "looked at again when the clock may be right"
    world.clock.advance(5 * 3600 + 61)
    world.look()
    assert world.look() is None
