"""Whole lives of jobs on an API server in memory: each look is one reconcile, each fixed point writes nothing more."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.status import UnreadableStatus
from finetune_operator import keys, kinds
from finetune_operator.reconcile import reconcile_once
from finetune_operator.runtime.api import ApiError, Conflict

from . import builders
from .fakes import Died, Kubelet, World
from .lives import HUB, prepared, running


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


def trains(world: World, failure_policy: dict[str, Any]) -> Kubelet:
    """A job whose first attempt has begun."""
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit(publish=HUB, failurePolicy=failure_policy)
    yield_to_operator(world)
    kubelet.complete("-prepare-", builders.prepared())
    yield_to_operator(world)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    yield_to_operator(world)
    return kubelet


def life(world: World) -> None:
    """A job from apply to published, with one failed attempt; whoever calls drives the operator between the steps."""
    kubelet = trains(world, {"backoffSeconds": 10})
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=3)
    kubelet.finish("starchat-1", "FAILED")
    yield_to_operator(world)
    world.clock.advance(60)
    yield_to_operator(world)
    kubelet.train("starchat-2")
    yield_to_operator(world)
    kubelet.complete("-publish-", builders.published())
    yield_to_operator(world)


def interrupted_life(world: World) -> None:
    """Suspended and let go on; then training fails for good, and so does publication, and each is asked for again."""
    kubelet = trains(world, {"maxFailures": 0})
    world.change(suspend=True)
    yield_to_operator(world)
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7, checkpoint={"step": 7, "attempt": 1})
    yield_to_operator(world)
    kubelet.remove_ray_pods("starchat-1-abcde")
    yield_to_operator(world)
    world.change(suspend=False)
    yield_to_operator(world)
    kubelet.rayjob("starchat-2", "Running", job="RUNNING")
    kubelet.report("starchat-2-abcde", outcome="Failed", reason="TrainingFailed", message="loss is nan", step=8)
    kubelet.finish("starchat-2", "FAILED")
    yield_to_operator(world)
    world.change(retry=1)
    yield_to_operator(world)
    world.clock.advance(600)
    yield_to_operator(world)
    kubelet.train("starchat-3")
    yield_to_operator(world)
    kubelet.fail("-publish-", builders.failed("PublicationFailed", "the token may not write"))
    yield_to_operator(world)
    world.change(retry=2)
    yield_to_operator(world)
    kubelet.complete("-publish-", builders.published())
    yield_to_operator(world)


def elastic_life(world: World) -> None:
    """A job of two nodes that starts with one, and has the other after an hour."""
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit(publish=HUB, workers={"nodes": 2, "minNodes": 1, "startDeadlineSeconds": 600})
    yield_to_operator(world)
    kubelet.complete("-prepare-", builders.prepared())
    yield_to_operator(world)
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", workers=1)
    yield_to_operator(world)
    world.clock.advance(700)
    yield_to_operator(world)
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.clock.advance(60)
    yield_to_operator(world)
    kubelet.rayjob("starchat-2", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-2-abcde", workers=1)
    yield_to_operator(world)
    world.clock.advance(3700)
    checkpoint = {"step": 5, "attempt": 2, "committedAt": kubelet.timestamp()}
    kubelet.report("starchat-2-abcde", outcome="Running", step=5, totalSteps=10, checkpoint=checkpoint)
    yield_to_operator(world)
    assert kubelet.named(kinds.FINETUNEREPORTS, "starchat")["spec"]["stop"]["reason"] == "Growing"
    kubelet.report("starchat-2-abcde", outcome="Stopped", step=6, checkpoint=checkpoint | {"step": 6})
    yield_to_operator(world)
    kubelet.remove_ray_pods("starchat-2-abcde")
    yield_to_operator(world)
    assert world.status["attempts"][-1]["workerPods"] == 2
    kubelet.train("starchat-3")
    yield_to_operator(world)
    assert "adjusted" not in world.status
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


@pytest.mark.parametrize(
    ("story", "outcomes", "moments"),
    [
        (life, ["Failed", "Finished"], ("before", "after")),
        (interrupted_life, ["Stopped", "Failed", "Finished"], ("before", "after")),
        (elastic_life, ["NotStarted", "Stopped", "Finished"], ("after",)),
    ],
)
def test_killed_before_or_after_any_call_the_end_is_the_same(
    story: Callable[[World], None], outcomes: list[str], moments: tuple[str, ...]
) -> None:
    calm = World()
    story(calm)
    wanted, calls = end_state(calm), len(calm.api.calls)
    assert [a["outcome"] for a in calm.status["attempts"]] == outcomes
    for number in range(calls):
        for when in moments:
            world = World()

            def die(found: int, call: str, *, fatal: int = number) -> None:
                if found == fatal:
                    raise Died

            setattr(world.api, when, die)
            story(world)
            assert end_state(world) == wanted, (number, when, calm.api.calls[number])
            made = [call for call in world.api.calls if call.startswith("POST rayjobs")]
            assert sorted(set(made)) == [f"POST rayjobs starchat-{attempt}" for attempt in range(1, len(outcomes) + 1)]
            assert len(made) <= len(outcomes) + 1, made


# ---- caches that are behind


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
    world.api.change(kinds.FINETUNEJOBS, *world.key, metadata={"labels": {keys.QUEUE_LABEL: "other"}})
    world.clock.advance(2)  # what it wrote itself is no news any more
    with pytest.raises(ApiError, match="changed since"):
        world.look()
    assert world.names(kinds.RAYJOBS) == []


def test_an_attempt_that_was_just_entered_asks_the_api_server_for_nothing(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    decisions = [world.look()]
    world.api.reads.clear()
    decisions += [world.look(), world.look()]
    assert [decision.at_once for decision in decisions if decision] == [True, True, False]
    assert world.status["attempts"][0]["rayJob"]["name"] == "starchat-1"
    assert world.api.reads == []


def test_after_a_conflict_the_next_look_reads_the_job_itself(world: World) -> None:
    world.submit()
    world.api.behind = True  # its watch is down
    world.api.change(kinds.FINETUNEJOBS, *world.key, metadata={"labels": {keys.QUEUE_LABEL: "other"}})
    with pytest.raises(Conflict):
        world.look()
    world.look()
    assert world.condition("Planned") == ("True", "Planned")


def _touched(world: World, *, unless_every: int = 0) -> Callable[[int, str], None]:
    """Somebody is faster than each of our writes with a label that decides nothing; than all but every n-th."""
    count = itertools.count(1)

    def before(number: int, call: str) -> None:
        word = next(count)
        if not unless_every or word % unless_every:
            world.api.change(kinds.FINETUNEJOBS, *world.key, metadata={"labels": {"touched": str(word)}})

    return before


def test_what_others_write_all_the_time_keeps_no_job_from_going_on(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.api.before = _touched(world, unless_every=3)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    assert world.status["attempts"][0]["rayJob"]["name"] == "starchat-1"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


def test_who_is_always_faster_brings_on_a_new_look(world: World) -> None:
    world.submit()
    world.api.before = _touched(world)
    with pytest.raises(Conflict):
        world.look()
    assert 1 < len([call for call in world.api.calls if call.startswith("PATCH finetunejobs/status")]) < 50


def test_a_leader_that_has_not_heard_of_an_attempt_leaves_its_rayjob(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    kubelet.finish("starchat-1", "FAILED")
    world.clock.advance(11)
    world.settle()
    old = json.loads(json.dumps(world.job))  # what the next leader's watch, which hangs, has shown it
    world.clock.advance(600)
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1", "starchat-2"]
    world.restart()
    world.api.known.jobs.put(old)
    with pytest.raises(Conflict):
        world.look()
    assert world.names(kinds.RAYJOBS) == ["starchat-1", "starchat-2"]
    world.settle()
    assert world.status["attempt"] == 2
    assert world.names(kinds.RAYJOBS) == ["starchat-1", "starchat-2"]


# ---- the end


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


def test_a_job_whose_ttl_was_just_removed_stays(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.train("starchat-1")
    world.settle()
    world.clock.advance(59)
    world.api.behind = True
    world.change(ttlSecondsAfterFinished=None)
    world.clock.advance(2)
    with pytest.raises(Conflict):
        world.look()
    world.look()
    assert ("finetunejobs", *world.key) in world.api.objects


def test_a_job_that_is_retried_as_its_ttl_is_over_stays(world: World, kubelet: Kubelet) -> None:
    """Between the operator's last question and its deletion."""
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="InvalidData", message="row 3", permanent=True)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Failed", reason="InvalidData", message="row 3", permanent=True)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    assert world.condition("Failed")[0] == "True"
    world.clock.advance(61)

    def retry(number: int, call: str) -> None:
        if call.startswith("DELETE finetunejobs"):
            world.api.before = lambda number, call: None
            world.change(retry=1)

    world.api.before = retry
    reconcile_once(world.cluster, world.key, world.settings)
    world.settle()
    assert world.condition("Failed")[0] == "False"
    assert world.names(kinds.RAYJOBS)[-1] == "starchat-2"


def test_a_job_that_is_gone_before_its_ttl_is_no_fault(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.train("starchat-1")
    world.settle()
    world.clock.advance(61)
    world.api.behind = True
    world.api.remove(kinds.FINETUNEJOBS, *world.key)
    with pytest.raises(Conflict, match="is gone"):
        world.look()


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


def test_the_deadline_ends_a_job_that_runs(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, budget={"activeDeadlineSeconds": 1000})
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


def refused_while_pods_wait(world: World, kubelet: Kubelet) -> None:
    """An attempt that ended before all of its pods ran, of a job whose plan is refused."""
    prepared(world, kubelet)
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", workers=1)
    world.settle()
    world.change(cpuPods={"env": [{"name": "RAY_ADDRESS", "value": "x"}]})
    world.settle()
    assert world.condition("Planned")[0] == "False"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"], "a refused change stops nothing that runs"


def test_an_attempt_that_ends_while_the_plan_is_refused_leaves_no_rayjob(world: World, kubelet: Kubelet) -> None:
    refused_while_pods_wait(world, kubelet)
    world.clock.advance(1801)
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "NotStarted"
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert world.names(kinds.RAYJOBS) == []


def test_a_refused_plan_spares_a_rayjob_that_is_queued_until_it_is_let_go(world: World, kubelet: Kubelet) -> None:
    refused_while_pods_wait(world, kubelet)
    kubelet.rayjob("starchat-1", "Suspended", cluster="")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Preempted"
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    kubelet.rayjob("starchat-1", "Initializing", cluster="starchat-1-fghij")
    world.settle()
    assert world.names(kinds.RAYJOBS) == [], "nobody would follow it"


# ---- a spec that another version of the operator has planned


def unreadable(world: World, kubelet: Kubelet, **spec: Any) -> None:
    """An attempt runs, and then an operator starts whose models don't know a field of the spec."""
    prepared(world, kubelet, **spec)
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    kubelet.report("starchat-1-abcde", outcome="Running", step=1)
    world.settle()
    job = world.job
    job["spec"]["workers"]["newField"] = 1
    world.api.put(kinds.FINETUNEJOBS, job)
    world.restart()


def test_an_attempt_whose_spec_cannot_be_read_is_followed_to_its_end(world: World, kubelet: Kubelet) -> None:
    unreadable(world, kubelet)
    kubelet.report("starchat-1-abcde", outcome="Running", step=4)
    world.settle()
    assert world.condition("Planned") == ("False", "InvalidSpec")
    assert "newField" in world.message("Stalled")
    assert world.status["attempts"][0]["lastStep"] == 4
    kubelet.report("starchat-1-abcde", outcome="Finished", step=10)
    kubelet.finish("starchat-1")
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Finished"
    assert world.condition("Succeeded")[0] == "False"
    world.change(workers={"newField": None})
    world.settle()
    assert world.condition("Succeeded")[0] == "True"


def test_an_attempt_whose_spec_cannot_be_read_is_suspended_all_the_same(world: World, kubelet: Kubelet) -> None:
    unreadable(world, kubelet)
    world.change(suspend=True)
    world.settle()
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"]["stop"]["reason"] == "Suspended"
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=5)
    kubelet.finish("starchat-1", "FAILED")
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Stopped"


def test_an_attempt_whose_spec_cannot_be_read_ends_with_its_gpu_hours(world: World, kubelet: Kubelet) -> None:
    unreadable(world, kubelet, budget={"gpuHours": 16})
    world.settle()
    world.clock.advance(3600)
    world.settle()
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"]["stop"]["reason"] == "BudgetExceeded"


def test_an_attempt_of_which_neither_spec_nor_run_can_be_read_is_let_alone(world: World, kubelet: Kubelet) -> None:
    unreadable(world, kubelet)
    [config_map] = world.names(kinds.CONFIG_MAPS)
    world.api.remove(kinds.CONFIG_MAPS, builders.NAMESPACE, config_map)
    world.clock.advance(10_000)
    world.settle()
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert "outcome" not in world.status["attempts"][0]
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]


# ---- invariants


def test_an_attempt_whose_run_was_deleted_is_followed_to_its_end(world: World, kubelet: Kubelet) -> None:
    """A newer operator has it no longer in mind, and the preparation that could make it again is gone."""
    running(world, kubelet)
    world.api.remove(kinds.CONFIG_MAPS, builders.NAMESPACE, world.status["run"]["configMap"])
    world.api.remove(kinds.JOBS, builders.NAMESPACE, kubelet.named(kinds.JOBS, "-prepare-")["metadata"]["name"])
    world.restart()
    world.change(suspend=True)
    world.settle()
    assert world.status["attempts"][0]["stopRequested"] == "Suspended"
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=7)
    world.settle()
    assert world.names(kinds.RAYJOBS) == []
    assert world.status["attempts"][0]["outcome"] == "Stopped"


def test_a_rayjob_that_others_suspended_as_it_finished_takes_no_gpus_again(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet, publish=HUB)
    kubelet.report("starchat-1-abcde", outcome="Finished", step=10, totalSteps=10)
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    kubelet.rayjob("starchat-1", "Suspended", cluster="")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.status["attempts"][0]["outcome"] == "Finished"
    assert world.names(kinds.RAYJOBS) == []


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


# ---- after a newer operator, which was rolled back


def test_budget_and_stop_work_on_a_status_that_a_newer_operator_wrote(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    attempts = [{"number": 1, "outcome": "Migrated", "zone": "a"}, {**world.status["attempts"][0], "number": 2, "zone": "b"}]
    audited = {"type": "Audited", "status": "True", "reason": "Audited", "lastTransitionTime": builders.CREATED}
    status = {"attempt": 2, "attempts": attempts, "conditions": [*world.status["conditions"], audited]}
    world.api.change(kinds.FINETUNEJOBS, *world.key, status={**world.status, **status})
    world.change(suspend=True)
    world.settle()
    assert world.api.of(kinds.FINETUNEREPORTS)[0]["spec"]["stop"]["reason"] == "Suspended"
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=3)
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Suspended") == ("True", "Suspended")
    assert [(a["outcome"], a["zone"]) for a in world.status["attempts"]] == [("Migrated", "a"), ("Stopped", "b")]
    assert world.condition("Audited") == ("True", "Audited")


def test_a_status_that_cannot_be_read_is_told_once_and_nothing_is_done(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.api.change(kinds.FINETUNEJOBS, *world.key, status={**world.status, "attempts": [{"number": "two"}]})
    before = len(world.api.calls)
    for _ in range(2):
        with pytest.raises(UnreadableStatus):
            world.look()
    assert {call.split()[1] for call in world.api.calls[before:]} == {"events"}
    assert [reason for reason, _ in world.events].count("StatusUnreadable") == 1
    reason, note = world.events[-1]
    assert (reason, "attempts.0.number" in note) == ("StatusUnreadable", True)
