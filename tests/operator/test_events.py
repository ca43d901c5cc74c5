"""Events: once per transition, with names that the transition decides."""

from dataclasses import replace

import pytest

from finetune_operator import kinds
from finetune_operator.event_recorder import EventRecorder
from finetune_operator.events import Event, manifest
from finetune_operator.runtime.api import ApiError, Forbidden, NotFound, ServerError, TooManyRequests, Unreachable

from . import builders
from .fakes import Died, FakeApi, HandClock, Kubelet, World, failing

EVENT = Event(type="Warning", reason="Failed", action="Failed", note="row 3 is wrong", moment="1")


def test_the_same_transition_has_the_same_name() -> None:
    one = manifest(EVENT, builders.owner(), at="2026-11-23T10:00:00.000000Z", instance="a")
    other = manifest(EVENT, builders.owner(), at="2026-11-23T11:00:00.000000Z", instance="b")
    another = manifest(EVENT, builders.owner(uid="other"), at="2026-11-23T10:00:00.000000Z", instance="a")
    assert one["metadata"]["name"] == other["metadata"]["name"] != another["metadata"]["name"]
    assert one["regarding"]["uid"] == builders.UID


def test_a_note_is_cut_to_what_the_api_takes() -> None:
    long = Event(type="Normal", reason="Prepared", action="Prepared", note="x" * 5000, moment="1")
    assert len(manifest(long, builders.owner(), at="t", instance="i")["note"]) <= 1024


def test_what_a_person_reads_of_a_job_whose_data_is_wrong() -> None:
    world = World()
    kubelet = Kubelet(world.api, now=world.clock.now)
    world.submit()
    world.settle()
    kubelet.fail("-prepare-", builders.failed())
    world.settle()
    assert world.events == [
        ("Planned", world.message("Planned")),
        ("Failed", "InvalidData: row 3 of org/data has no messages"),
    ]
    assert [event["type"] for event in world.api.of(kinds.EVENTS)].count("Warning") == 1


def test_looking_again_tells_nothing_again() -> None:
    world = World()
    world.submit(training={"globalBatchSize": 100})
    world.settle()
    told = world.events
    assert [reason for reason, _ in told] == ["InvalidSpec"]
    world.change(ttlSecondsAfterFinished=5)
    world.settle()
    assert world.events == told


@pytest.mark.parametrize(
    "error",
    [
        ServerError("etcd is away", status=500),
        TooManyRequests("wait", status=429, retry_after_seconds=1),
        Unreachable("cut"),
        Forbidden("the namespace is being terminated", status=403),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_event_that_cannot_be_made_holds_nothing_up(error: ApiError) -> None:
    world = World()
    world.api.before = failing(error, call="POST events")
    world.submit()
    world.settle()
    assert world.events == []
    assert world.condition("Planned")[0] == "True"


@pytest.mark.parametrize(
    "error",
    [ServerError("etcd is away", status=500), TooManyRequests("wait", status=429), Unreachable("cut")],
    ids=lambda e: type(e).__name__,
)
def test_what_passes_only_delays_an_event(error: ApiError) -> None:
    """Also the last one of a job that is over, at which nobody would look again."""
    world = World()
    world.submit(training={"globalBatchSize": 100})
    world.api.before = failing(error, call="POST events")
    decision = world.settle()
    assert decision is not None
    assert decision.requeue_after_seconds == 10
    assert world.events == []
    world.change(training={"globalBatchSize": 256})
    world.api.before = lambda number, call: None
    world.settle()
    assert world.events == [], "a look doesn't wait again for what didn't answer just now"
    world.clock.advance(10)
    world.settle()
    assert [reason for reason, _ in world.events] == ["InvalidSpec", "Planned"]
    calls = len(world.api.calls)
    world.settle()
    assert len(world.api.calls) == calls


def test_an_event_whose_answer_was_lost_is_there_once() -> None:
    world = World()
    world.submit(training={"globalBatchSize": 100})
    world.api.after = failing(Unreachable("no answer"), call="POST events")
    world.look()
    world.api.after = lambda number, call: None
    world.clock.advance(10)
    world.settle()
    assert [reason for reason, _ in world.events] == ["InvalidSpec"]
    assert [call.split()[1] for call in world.api.calls].count("events") == 2


@pytest.mark.parametrize("error", [Forbidden("the namespace is being terminated", status=403), NotFound("no such namespace", status=404)])
def test_what_is_refused_for_good_is_not_tried_again(error: ApiError) -> None:
    world = World()
    world.submit(training={"globalBatchSize": 100})
    world.api.before = failing(error, call="POST events")
    world.look()
    world.api.before = lambda number, call: None
    decision = world.settle()
    assert world.events == []
    assert decision is not None
    assert decision.requeue_after_seconds is None


def test_events_are_kept_for_a_time_and_not_beyond_their_job() -> None:
    clock = HandClock()
    api, owner = FakeApi(clock), builders.owner()
    telling = EventRecorder(api, clock, instance="i")  # type: ignore[arg-type]
    api.before = failing(ServerError("etcd is away", status=500), call="POST events")
    for moment in range(50):
        assert telling.record(owner, (replace(EVENT, moment=str(moment)),)) == 10
    telling.forget(("ml", "other"))
    api.before = lambda number, call: None
    clock.advance(599)
    assert telling.record(owner, ()) is None
    assert len(api.of(kinds.EVENTS)) == 20

    api.before = failing(ServerError("etcd is away", status=500), call="POST events")
    assert telling.record(owner, (replace(EVENT, moment="too old"),)) == 10
    clock.advance(600)
    assert telling.record(owner, (replace(EVENT, moment="its job goes"),)) == 10
    telling.forget((owner.namespace, owner.name))
    api.before = lambda number, call: None
    assert telling.record(owner, ()) is None
    assert len(api.of(kinds.EVENTS)) == 20


def test_who_dies_between_an_event_and_the_status_tells_it_once() -> None:
    world = World()
    world.submit(training={"globalBatchSize": 100})

    def die(number: int, call: str) -> None:
        if call.startswith("PATCH finetunejobs/status"):
            raise Died

    world.api.before = die
    for _ in range(2):
        with pytest.raises(Died):
            world.look()
        world.clock.advance(60)
        world.restart()
    world.api.before = lambda number, call: None
    world.settle()
    assert [reason for reason, _ in world.events] == ["InvalidSpec"]
    assert len([call for call in world.api.calls if call.startswith("POST events")]) == 3
