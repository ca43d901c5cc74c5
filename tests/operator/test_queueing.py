"""What Kueue says of a job that it holds back reaches the job's conditions, and the end of the attempt that it took back."""

from typing import Any

import pytest
from tests.operator import builders
from tests.operator.fakes import Kubelet, World

from finetune_operator import keys, kinds
from finetune_operator.queueing import held

Json = dict[str, Any]

NO_QUOTA = "couldn't assign flavors to pod set worker: insufficient unused quota for nvidia.com/gpu in flavor any, 8 more needed"
EVICTED = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
GIVEN_UP = "The workload is deactivated due to exceeding the maximum number of re-queuing retries"


def workload(*, uid: str = "u", active: bool = True, checks: tuple[Json, ...] = (), **conditions: tuple[str, str]) -> Json:
    """As Kueue keeps it; `conditions` are status and message."""
    told = [{"type": kind, "status": status, "reason": "Any", "message": message} for kind, (status, message) in conditions.items()]
    metadata = {"name": "rayjob-starchat-1-abcde", "namespace": builders.NAMESPACE, "labels": {keys.WORKLOAD_OF_LABEL: uid}}
    status = {"conditions": told, "admissionChecks": list(checks)}
    return {"metadata": metadata, "spec": {"queueName": "gpus", "active": active}, "status": status}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "RayJob a is suspended by others, as Kueue does until there is quota"),
        (workload(), "RayJob a waits in queue gpus"),
        (workload(QuotaReserved=("False", NO_QUOTA)), f"RayJob a waits in queue gpus: {NO_QUOTA}"),
        (workload(QuotaReserved=("False", "LocalQueue gpus doesn't exist")), "RayJob a waits in queue gpus: LocalQueue gpus doesn't exist"),
        (
            workload(
                QuotaReserved=("True", "Quota reserved in ClusterQueue all"),
                checks=({"name": "nodes", "state": "Pending", "message": "ETA 3 min"}, {"name": "other", "state": "Ready"}),
            ),
            "RayJob a waits in queue gpus: nodes is Pending: ETA 3 min",
        ),
        ({"metadata": {"name": "w", "namespace": "ml"}}, "RayJob a has no queue, and Kueue lets it wait"),
    ],
    ids=["no-kueue", "just-made", "no-quota", "no-queue", "admission-check", "unlabelled"],
)
def test_why_it_is_held_back(found: Json | None, words: str) -> None:
    assert held("RayJob", "a", found).words == words
    assert held("RayJob", "a", found).stalled is None


def test_what_kueue_has_given_up_needs_a_person() -> None:
    found = held("RayJob", "a", workload(active=False, Evicted=("True", GIVEN_UP), QuotaReserved=("False", GIVEN_UP)))
    assert found.stalled == ("Deactivated", found.words)
    assert GIVEN_UP in found.words
    assert found.words.endswith("mend the cause, then suspend the job and resume it: it gets another place in the queue")


def test_what_kueue_gave_up_stays_so_when_its_workload_is_made_active_again() -> None:
    """Kueue 0.17.0 leaves it where it is, unless a person had deactivated it."""
    told = workload(Evicted=("True", GIVEN_UP), QuotaReserved=("False", GIVEN_UP))
    requeued = {"type": "Requeued", "status": "False", "reason": "DeactivatedDueToRequeuingLimitExceeded", "message": GIVEN_UP}
    told["status"]["conditions"].append(requeued)
    assert held("RayJob", "a", told).given_up
    requeued["status"] = "True"
    assert not held("RayJob", "a", told).given_up


def test_the_job_says_what_kueue_says(world: World, kubelet: Kubelet) -> None:
    """Held back, let go, taken back, given up, tried again: each is a condition; nothing of it is charged."""
    world.submit(workers={"queueName": "gpus"})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    uid = suspend(world, kubelet, QuotaReserved=("False", NO_QUOTA))
    assert world.condition("Trained") == ("False", "Queued")
    assert world.message("Trained") == f"attempt 1: RayJob starchat-1 waits in queue gpus: {NO_QUOTA}"
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == pytest.approx(60), "nobody tells when Kueue says something else"

    let_go(world, kubelet, uid, cluster="starchat-1-abcde")
    kubelet.rayjob("starchat-1", "Running", job="RUNNING")
    kubelet.ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Trained") == ("False", "Training")

    kubelet.remove_ray_pods("starchat-1-abcde")
    suspend(world, kubelet, Evicted=("True", EVICTED), QuotaReserved=("False", NO_QUOTA))
    ended = world.status["attempts"][0]
    assert (ended["outcome"], ended["charged"]) == ("Preempted", False)
    assert ended["message"] == f"the RayJob was taken back by Kueue: {EVICTED}; it goes on when they let it"
    assert world.message("Trained") == f"RayJob starchat-1 waits in queue gpus: {NO_QUOTA}"

    keep(world, workload(uid=uid, active=False, Evicted=("True", GIVEN_UP)))
    world.settle()
    assert world.condition("Trained") == ("False", "Deactivated")
    assert world.condition("Stalled") == ("True", "Deactivated")
    let_go(world, kubelet, uid, cluster="starchat-1-fghij")
    assert world.condition("Stalled") == ("False", "NotStalled")
    assert world.condition("Trained") == ("False", "Starting")


def test_a_rayjob_that_is_held_back_from_the_start_has_not_begun(world: World, kubelet: Kubelet) -> None:
    """KubeRay (1.6.2) names a RayCluster for it all the same, and forgets it a moment later: no attempt was taken back."""
    world.submit(workers={"queueName": "gpus"})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    for deployment, cluster in (("Initializing", "starchat-1-abcde"), ("Suspending", "starchat-1-abcde"), ("Suspended", "")):
        kubelet.rayjob("starchat-1", deployment, cluster=cluster)
        world.settle()
    uid = suspend(world, kubelet, QuotaReserved=("False", NO_QUOTA))
    let_go(world, kubelet, uid, cluster="starchat-1-fghij")
    (attempt,) = world.status["attempts"]
    assert "outcome" not in attempt
    assert attempt["rayJob"]["cluster"] == "starchat-1-fghij"


def suspend(world: World, kubelet: Kubelet, **conditions: tuple[str, str]) -> str:
    """As Kueue does; the RayJob's uid."""
    raw = world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": True})
    uid: str = raw["metadata"]["uid"]
    keep(world, workload(uid=uid, **conditions))
    kubelet.rayjob("starchat-1", "Suspended", cluster="")
    world.settle()
    return uid


def let_go(world: World, kubelet: Kubelet, uid: str, *, cluster: str) -> None:
    keep(world, workload(uid=uid, QuotaReserved=("True", ""), Admitted=("True", "")))
    world.api.change(kinds.RAYJOBS, builders.NAMESPACE, "starchat-1", spec={"suspend": False})
    kubelet.rayjob("starchat-1", "Initializing", cluster=cluster)
    world.settle()


def keep(world: World, found: Json) -> None:
    world.api.put(kinds.WORKLOADS, found)


@pytest.mark.parametrize("stage", ["prepare", "publish"])
def test_a_job_of_one_pod_that_is_held_back_is_queued(world: World, kubelet: Kubelet, stage: str) -> None:
    hub = {"hub": {"repository": "org/starchat", "tokenSecret": {"name": "hub"}}}
    world.submit(cpuPods={"queueName": "cpus"}, publish=hub)
    world.settle()
    condition = "Prepared"
    if stage == "publish":
        kubelet.complete("-prepare-", builders.prepared())
        world.settle()
        kubelet.train("starchat-1")
        world.settle()
        condition = "Published"
    job = kubelet.named(kinds.JOBS, f"-{stage}-")
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    world.api.change(kinds.JOBS, builders.NAMESPACE, name, spec={"suspend": True})
    keep(world, workload(uid=uid, QuotaReserved=("False", NO_QUOTA)))
    world.settle()
    assert world.condition(condition) == ("False", "Queued")
    assert world.message(condition) == f"Job {name} waits in queue gpus: {NO_QUOTA}"
    keep(world, workload(uid=uid, active=False, Evicted=("True", GIVEN_UP)))
    world.settle()
    assert world.condition("Stalled") == ("True", "Deactivated")


def test_a_kueue_that_cannot_be_asked_stops_nothing(world: World, kubelet: Kubelet) -> None:
    """No right to read Workloads, or no answer: the job is queued all the same."""
    from finetune_operator.runtime.api import Forbidden

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise Forbidden("workloads.kueue.x-k8s.io is forbidden", status=403, reason="Forbidden")

    world.api.list_pages = forbidden  # type: ignore[method-assign]
    world.submit(workers={"queueName": "gpus"})
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    world.settle()
    suspend(world, kubelet)
    assert world.message("Trained") == "attempt 1: RayJob starchat-1 is suspended by others, as Kueue does until there is quota"
