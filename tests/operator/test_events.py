"""Events: once per transition, with names that the transition decides."""

import pytest

from finetune_operator import kinds
from finetune_operator.events import Event, manifest
from finetune_operator.runtime.api import ServerError

from . import builders
from .fakes import Died, Kubelet, World, failing

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


def test_an_event_that_cannot_be_made_holds_nothing_up() -> None:
    world = World()
    world.api.before = failing(ServerError("etcd is away", status=500), call="POST events")
    world.submit()
    world.settle()
    assert world.events == []
    assert world.condition("Planned")[0] == "True"


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
