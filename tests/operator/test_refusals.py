"""What the API server refuses in the life of a job: told, and tried again."""

import pytest

from finetune_operator import kinds
from finetune_operator.runtime.api import ApiError, Conflict, Forbidden, Invalid, NotFound, Resource, ServerError

from . import builders
from .fakes import Kubelet, World, failing
from .lives import HUB, prepared


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
    ("resource", "name"),
    [
        (kinds.CONFIG_MAPS, "run"),
        (kinds.FINETUNEREPORTS, builders.NAME),
        (kinds.SERVICE_ACCOUNTS, "starchat-finetune"),
        (kinds.ROLES, "starchat-finetune"),
        (kinds.ROLE_BINDINGS, "starchat-finetune"),
        (kinds.JOBS, "publication"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_nothing_of_a_stranger_is_adopted_or_changed(world: World, kubelet: Kubelet, resource: Resource, name: str) -> None:
    if name in ("run", "publication"):  # names with a digest: those of another life of this job
        other = World()
        prepared(other, Kubelet(other.api, now=other.clock.now), publish=HUB)
        Kubelet(other.api, now=other.clock.now).train("starchat-1")
        other.settle()
        part = "-run-" if name == "run" else "-publish-"
        (name,) = [found for found in other.names(resource) if part in found]
    foreign = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name, "namespace": builders.NAMESPACE}}
    foreign = world.api.put(resource, {**foreign, "spec": {}} if resource is kinds.JOBS else foreign)
    world.submit(publish=HUB)
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    for _ in range(5):
        world.look()
    if resource is kinds.JOBS:
        kubelet.train("starchat-1")
        for _ in range(5):
            world.look()
    assert world.condition("Stalled") == ("True", "NameTaken")
    assert f"{resource.kind} {name}" in world.message("Stalled")
    assert world.api.objects[resource.plural, builders.NAMESPACE, name] == foreign


def test_a_job_that_is_applied_again_waits_for_what_the_one_before_left(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    left = kubelet.named(kinds.JOBS, "-prepare-")
    world.api.remove(kinds.FINETUNEJOBS, *world.key)
    world.look()
    world.api.put(kinds.JOBS, left)  # the garbage collector comes later
    again = builders.raw_job(uid="6f0c4e5e-0000-4000-8000-0000000000ff")
    world.api.put(kinds.FINETUNEJOBS, again)
    with pytest.raises(Conflict, match=r"Job starchat-prepare-.* of the job before is still being deleted"):
        world.look()
    assert world.condition("Stalled")[0] != "True"
    world.api.remove(kinds.JOBS, builders.NAMESPACE, left["metadata"]["name"])
    world.settle()
    assert kubelet.named(kinds.JOBS, "-prepare-")["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"]


def test_what_the_one_before_left_for_good_is_told(world: World, kubelet: Kubelet) -> None:
    """Its finalizer's controller is gone."""
    world.submit()
    world.settle()
    kubelet.complete("-prepare-", builders.prepared())
    reference = {"controller": True, "kind": "FineTuneJob", "name": builders.NAME, "uid": "6f0c4e5e-0000-4000-8000-0000000000ff"}
    metadata = {
        "name": "starchat-1",
        "namespace": builders.NAMESPACE,
        "ownerReferences": [reference],
        "deletionTimestamp": builders.CREATED,
    }
    world.api.put(kinds.RAYJOBS, {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {}})
    world.clock.advance(3600)
    for _ in range(3):
        world.look()
    assert world.condition("Trained") == ("False", "Rejected")
    assert "RayJob starchat-1 of the job before is still being deleted; see its finalizers" in world.message("Trained")


def test_a_refused_deletion_is_told(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, workers={"startDeadlineSeconds": 100})
    kubelet.rayjob("starchat-1", "Initializing")
    kubelet.ray_pods("starchat-1-abcde", workers=1)
    world.settle()
    refused = Forbidden('User "x" cannot delete resource "rayjobs"', status=403, reason="Forbidden")
    world.api.before = failing(refused, call="DELETE rayjobs")
    world.clock.advance(101)
    for _ in range(3):
        world.look()
    assert world.condition("Trained") == ("False", "KubeRayForbidden")
    assert "cannot delete" in world.message("Trained")


def test_a_finished_job_that_may_not_be_deleted_is_told_once_and_tried_again(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet, ttlSecondsAfterFinished=60)
    kubelet.train("starchat-1")
    world.settle()
    world.clock.advance(61)
    refused = Forbidden('User "x" cannot delete resource "finetunejobs"', status=403, reason="Forbidden")
    world.api.before = failing(refused, call="DELETE finetunejobs")
    for _ in range(3):
        decision = world.look()
        assert decision is not None
        assert decision.requeue_after_seconds == 30
        assert world.condition("Succeeded")[0] == "True"
    assert [reason for reason, note in world.events if "cannot delete" in note] == ["Forbidden"]
    world.api.before = lambda number, call: None
    world.look()
    assert ("finetunejobs", *world.key) not in world.api.objects


@pytest.mark.parametrize(("deleting", "stalled"), [(True, "False"), (False, "True")])
def test_an_orphan_has_the_name_unless_it_goes(world: World, deleting: bool, stalled: str) -> None:
    world.submit()
    world.look()
    [made] = world.api.of(kinds.JOBS)
    world.api.remove(kinds.JOBS, builders.NAMESPACE, made["metadata"]["name"])
    del made["metadata"]["ownerReferences"]
    world.api.put(kinds.JOBS, made)
    if deleting:
        world.api.change(kinds.JOBS, builders.NAMESPACE, made["metadata"]["name"], metadata={"deletionTimestamp": builders.CREATED})
        world.restart()
        with pytest.raises(Conflict, match="still being deleted"):
            world.look()
    else:
        world.restart()
        world.look()
    assert world.condition("Stalled")[0] == stalled


@pytest.mark.parametrize(
    ("error", "reason", "stalled"),
    [
        (NotFound("the server could not find the requested resource", status=404, reason="NotFound"), "KubeRayAbsent", "True"),
        (Forbidden('User "x" cannot create resource "rayjobs"', status=403, reason="Forbidden"), "KubeRayForbidden", "True"),
        (ApiError('unknown field "spec.rayClusterSpec.authOptions"', status=400, reason="BadRequest"), "KubeRayTooOld", "True"),
        (
            ApiError(
                'unknown field "spec.rayClusterSpec.workerGroupSpecs[0].template.spec.affinity.podAffinity.x"',
                status=400,
                reason="BadRequest",
            ),
            "Rejected",
            "True",
        ),
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


def test_what_stays_refused_is_tried_less_and_less_often(world: World) -> None:
    world.submit()
    world.api.before = failing(Invalid("spec is wrong", status=422, reason="Invalid"), call="POST jobs")
    waits = []
    for _ in range(7):
        world.look()
        world.clock.advance(1)  # others' events make it be looked at meanwhile
        decision = world.look()
        assert decision is not None
        assert decision.requeue_after_seconds is not None
        waits.append(decision.requeue_after_seconds + 1)
        world.clock.advance(decision.requeue_after_seconds)
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    world.change(cpuPods={"nodeSelector": {"pool": "cpus"}})
    decision = world.look()
    assert decision is not None
    assert decision.requeue_after_seconds == 30


def test_a_server_error_changes_nothing(world: World) -> None:
    world.submit()
    world.api.before = failing(ServerError("etcd is away", status=500), call="POST jobs")
    with pytest.raises(ServerError):
        world.look()
    assert world.status == {}
