"""What the API server would refuse is told before anything is made; asking costs next to nothing, and is never a loop."""

import pytest

from finetune_operator import kinds
from finetune_operator.observation import KubeRay
from finetune_operator.reconcile import reconcile_once
from finetune_operator.runtime.api import ApiError, Forbidden, Invalid, NotFound, ServerError, TooManyRequests

from . import builders
from .fakes import Kubelet, World, failing
from .lives import prepared, running

DENIED = Forbidden('rayjobs.ray.io "starchat-1" is forbidden: exceeded quota: teams, used: count/rayjobs.ray.io=4', status=403)


def asked(world: World) -> list[str]:
    return [call for call in world.api.calls if call.startswith("DRY-RUN")]


def test_a_refusal_is_told_in_the_servers_words_and_nothing_is_made(world: World) -> None:
    world.submit()
    world.api.before = failing(DENIED, call="DRY-RUN rayjobs")
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == 30
    assert world.names(kinds.JOBS) == []
    for kind, word in (("Planned", "False"), ("Stalled", "True")):
        assert world.condition(kind) == (word, "Rejected")
        assert "RayJob starchat-1: rayjobs.ray.io" in world.message(kind)
        assert "exceeded quota: teams" in world.message(kind)
    assert world.status["stage"] == "Stalled"
    assert [reason for reason, _ in world.events] == ["Rejected"]


def refusing(world: World, error: ApiError = DENIED, call: str = "DRY-RUN rayjobs") -> list[str]:
    """The API server refuses that; what it was asked goes into the list."""
    found: list[str] = []

    def before(number: int, what: str) -> None:
        if what.startswith(call):
            found.append(what)
            raise error

    world.api.before = before
    return found


def test_it_is_asked_again_later_and_later(world: World) -> None:
    world.submit()
    refused = refusing(world)
    waits = []
    for count in range(1, 9):
        decision = world.settle()
        for _ in range(5):
            world.look()
        assert decision is not None
        assert decision.requeue_after_seconds is not None
        assert len(refused) == count
        waits.append(decision.requeue_after_seconds)
        world.clock.advance(decision.requeue_after_seconds)
    assert waits == [30, 60, 120, 240, 480, 600, 600, 600]
    writes = [call for call in world.api.calls if call.startswith(("PATCH", "POST"))]
    assert len(writes) == 2, "its status and an event, once"
    world.api.before = lambda number, call: None
    world.settle()
    assert world.condition("Planned") == ("True", "Planned")
    assert len(world.names(kinds.JOBS)) == 1


def test_a_change_of_the_spec_is_asked_about_at_once(world: World) -> None:
    world.submit()
    refused = refusing(world)
    world.settle()
    world.change(training={"seed": 7})  # of nothing that the refused object has
    world.settle()
    assert refused == ["DRY-RUN rayjobs starchat-1"] * 2
    world.api.before = lambda number, call: None
    world.change(workers={"nodeSelector": {"pool": "gpus"}})
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    assert len(world.names(kinds.JOBS)) == 1


@pytest.mark.parametrize(
    ("call", "words", "field"),
    [
        (
            "DRY-RUN jobs",
            'Job.batch "starchat-1" is invalid: spec.template.spec.tolerations[0].value: Invalid value: "x": value must be empty',
            "spec.workers.tolerations[0].value",
        ),
        (
            "DRY-RUN jobs",
            'Job.batch "starchat-1" is invalid: [spec.template.spec.topologySpreadConstraints[1]: Duplicate value: "zone", '
            'spec.template.spec.containers[0].resources.requests: Invalid value: "8": must be less than or equal to cpu limit of 4]',
            "spec.workers.topologySpreadConstraints[1], spec.workers.resources.requests",
        ),
        (
            "DRY-RUN jobs",
            'Job.batch "starchat-1" is invalid: spec.template.spec.containers[0].volumeMounts[7].mountPath: Invalid value: "/a"',
            "spec.workers.volumes",
        ),
        (
            "DRY-RUN rayjobs",
            'RayJob.ray.io "starchat-1" is invalid: spec.rayClusterSpec.headGroupSpec.template.spec.priorityClassName: Invalid value: "x"',
            "spec.cpuPods.priorityClassName",
        ),
        (
            "POST jobs",
            'Job.batch "starchat-prepare" is invalid: spec.template.spec.affinity.nodeAffinity.x: Required value: must be specified',
            "spec.cpuPods.affinity.nodeAffinity.x",
        ),
    ],
)
def test_the_field_is_named(world: World, call: str, words: str, field: str) -> None:
    world.submit()
    world.api.before = failing(Invalid(words, status=422, reason="Invalid"), call=call)
    world.settle()
    assert world.condition("Stalled") == ("True", "Rejected")
    assert f": {field}: {words}" in world.message("Stalled")
    assert world.names(kinds.JOBS) == []


@pytest.mark.parametrize(
    ("call", "error", "again"),
    [
        ("DRY-RUN jobs", Forbidden('jobs.batch "starchat-1" is forbidden: Jobs may not have GPUs', status=403, reason="Forbidden"), 1),
        (
            "DRY-RUN jobs",
            Invalid(
                "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: spec.template.spec.tolerations[0]: no",
                status=422,
                reason="Invalid",
            ),
            1,
        ),
        ("DRY-RUN jobs", Invalid('Job.batch "starchat-1" is invalid: metadata.labels: Invalid value', status=422, reason="Invalid"), 1),
        ("DRY-RUN rayjobs", NotFound("the server could not find the requested resource", status=404, reason="NotFound"), 2),
        ("DRY-RUN rayjobs", ApiError('admission webhook "x" does not support dry run', status=400, reason="BadRequest"), 1),
        ("DRY-RUN rayjobs", ServerError("failed calling webhook: connection refused", status=500, reason="InternalError"), 2),
        ("DRY-RUN rayjobs", TooManyRequests("later", status=429, reason="TooManyRequests"), 2),
    ],
    ids=str,
)
def test_what_says_nothing_of_the_job_holds_nothing_up(world: World, call: str, error: ApiError, again: int) -> None:
    """`again`: how often it is asked for two jobs that are alike."""
    world.submit()
    refused = refusing(world, error, call)
    world.settle()
    assert world.condition("Planned") == ("True", "Planned")
    assert len(world.names(kinds.JOBS)) == 1
    world.api.put(kinds.FINETUNEJOBS, builders.raw_job("other", uid="6f0c4e5e-0000-4000-8000-0000000000aa"))
    reconcile_once(world.cluster, (builders.NAMESPACE, "other"), world.settings)
    assert len(refused) == again


def test_a_missing_right_is_told_before_the_preparation(world: World) -> None:
    world.submit()
    told = Forbidden('User "x" cannot create resource "rayjobs" in API group "ray.io"', status=403, reason="Forbidden")
    world.api.before = failing(told, call="DRY-RUN rayjobs")
    world.settle()
    assert world.condition("Stalled") == ("True", "KubeRayForbidden")
    assert world.names(kinds.JOBS) == []


def test_workers_that_changed_are_asked_about_before_the_next_attempt(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(suspend=True)
    world.settle()
    kubelet.report("starchat-1-abcde", outcome="Stopped", step=5)
    kubelet.rayjob("starchat-1", "Failed", job="FAILED")
    kubelet.remove_ray_pods("starchat-1-abcde")
    world.settle()
    assert world.condition("Suspended")[0] == "True"
    words = 'Job.batch "starchat-2" is invalid: spec.template.spec.tolerations[0].value: Invalid value: "x"'
    world.api.before = failing(Invalid(words, status=422, reason="Invalid"), call="DRY-RUN jobs starchat-2")
    world.change(suspend=False, workers={"tolerations": [{"key": "a", "operator": "Exists"}]})
    world.settle()
    assert world.condition("Stalled") == ("True", "Rejected")
    assert world.names(kinds.RAYJOBS) == ["starchat-1"]
    assert world.status["attempt"] == 1
    world.api.before = lambda number, call: None
    world.change(workers={"tolerations": []})
    world.settle()
    assert world.names(kinds.RAYJOBS) == ["starchat-1", "starchat-2"]


def test_a_change_while_it_trains_is_not_asked_about(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    before = asked(world)
    world.change(ttlSecondsAfterFinished=60)
    world.settle()
    assert asked(world) == before == ["DRY-RUN rayjobs starchat-1", "DRY-RUN jobs starchat-1"]


def test_without_kuberay_the_preparation_goes_on(world: World) -> None:
    world.kuberay = KubeRay.ABSENT
    world.submit()
    world.settle()
    assert asked(world) == []
    assert len(world.names(kinds.JOBS)) == 1


def calls_but_events(world: World) -> int:
    return len([call for call in (*world.api.calls, *world.api.reads) if " events " not in call])


def test_what_it_costs(world: World) -> None:
    """At most 2.2 calls a job to the preparation's Job, and 4.0 from there to the RayJob. Jobs that differ in no pod share the asking."""
    count = 20
    names = [f"sweep-{number}" for number in range(count)]
    for number, name in enumerate(names):
        raw = builders.raw_job(name, uid=f"6f0c4e5e-0000-4000-8000-{number:012}", training={"seed": number})
        world.api.put(kinds.FINETUNEJOBS, raw)
    for name in names:
        for _ in range(3):
            reconcile_once(world.cluster, (builders.NAMESPACE, name), world.settings)
    assert len(world.names(kinds.JOBS)) == count
    assert len(asked(world)) == 2
    assert calls_but_events(world) / count <= 2.2
    for name in names:  # report and rights are made while it is prepared
        Kubelet(world.api, now=world.clock.now, job=name).complete(f"{name}-prepare-", builders.prepared())
    before = calls_but_events(world)
    for name in names:
        for _ in range(5):
            reconcile_once(world.cluster, (builders.NAMESPACE, name), world.settings)
    assert len(world.names(kinds.RAYJOBS)) == count
    made_beside = 4  # no pod was seen before its end
    assert (calls_but_events(world) - before) / count - made_beside <= 4.0
    assert len(asked(world)) == 2


def test_what_one_namespace_takes_says_nothing_of_another(world: World) -> None:
    prepared(world, Kubelet(world.api, now=world.clock.now))
    other = builders.raw_job(namespace="other", uid="6f0c4e5e-0000-4000-8000-0000000000aa")
    world.api.put(kinds.FINETUNEJOBS, other)
    reconcile_once(world.cluster, ("other", builders.NAME), world.settings)
    assert len(asked(world)) == 4


def test_what_was_taken_is_asked_again_when_policies_may_have_changed(world: World) -> None:
    prepared(world, Kubelet(world.api, now=world.clock.now))
    for seconds, count in ((599, 2), (2, 4)):
        world.clock.advance(seconds)
        name = f"other-{seconds}"
        world.api.put(kinds.FINETUNEJOBS, builders.raw_job(name, uid=f"6f0c4e5e-0000-4000-8000-{seconds:012}"))
        reconcile_once(world.cluster, (builders.NAMESPACE, name), world.settings)
        assert len(asked(world)) == count
