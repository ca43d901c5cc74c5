"""What Argo CD is told of FineTuneJobs, run by a Lua 5.1 as Argo CD's is, over every status that the operator wrote in lives of jobs."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from charts.generate import ROOT
from lupa import lua51
from tests.operator import builders
from tests.operator.fakes import Kubelet, World
from tests.operator.lives import prepared, running

Json = dict[str, Any]
HEALTH = "resource.customizations.health.finetune.dev_FineTuneJob"
ACTIONS = "resource.customizations.actions.finetune.dev_FineTuneJob"


@cache
def told() -> dict[str, str]:
    """The ConfigMap's data."""
    data: dict[str, str] = yaml.safe_load((ROOT / "manifests/argocd/argocd-cm.yaml").read_text(encoding="utf-8"))["data"]
    return data


def lua(script: str, obj: Json) -> Any:
    """What the script returns for this object, in an interpreter of its own without the libraries that Argo CD doesn't open."""
    runtime = lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    for library in ("io", "debug", "package", "require", "python"):
        runtime.globals()[library] = None
    runtime.globals().obj = table(runtime, obj)
    return plain(runtime.execute(script))


def table(runtime: Any, value: object) -> Any:
    """JSON as Lua has it: every number is a double."""
    if isinstance(value, dict):
        return runtime.table_from({key: table(runtime, inner) for key, inner in value.items() if inner is not None})
    if isinstance(value, list):
        return runtime.table_from([table(runtime, inner) for inner in value])
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def plain(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    items = {key: plain(inner) for key, inner in value.items()}
    return list(items.values()) if items and all(isinstance(key, int) for key in items) else items


def health(job: Json) -> str:
    """Argo CD's word for it."""
    found = lua(told()[HEALTH], job)
    assert set(found) <= {"status", "message"}
    return str(found["status"])


def offered(job: Json) -> set[str]:
    """Buttons that can be pressed."""
    script = yaml.safe_load(told()[ACTIONS])["discovery.lua"]
    return {name for name, button in lua(script, job).items() if not button["disabled"]}


def pressed(job: Json, name: str) -> Json:
    """The job's spec after the button."""
    [script] = [one["action.lua"] for one in yaml.safe_load(told()[ACTIONS])["definitions"] if one["name"] == name]
    after: Json = lua(script, job)
    assert after["metadata"]["name"] == job["metadata"]["name"]
    return after["spec"]  # type: ignore[no-any-return]


# ---- lives: each ends where its last words say


def succeeds(world: World, kubelet: Kubelet) -> None:
    prepared(world, kubelet)
    kubelet.train("starchat-1")
    world.settle()


def wrong_data(world: World, kubelet: Kubelet) -> None:
    world.submit()
    world.settle()
    kubelet.fail("-prepare-", builders.failed())
    world.settle()


def tried_again(world: World, kubelet: Kubelet) -> None:
    wrong_data(world, kubelet)
    world.change(retry=1)
    world.settle()


def suspended(world: World, kubelet: Kubelet) -> None:
    world.submit(suspend=True)
    world.settle()


def resumed(world: World, kubelet: Kubelet) -> None:
    suspended(world, kubelet)
    world.change(suspend=False)
    world.settle()


def asked_to_stop(world: World, kubelet: Kubelet) -> None:
    running(world, kubelet)
    world.change(suspend=True)
    world.settle()


def refused(world: World, kubelet: Kubelet) -> None:
    world.submit(training={"globalBatchSize": 7, "microBatchSize": 4})
    world.settle()


LIVES: dict[str, tuple[Callable[[World, Kubelet], None], str, set[str]]] = {
    "prepared": (prepared, "Progressing", {"suspend"}),
    "running": (running, "Progressing", {"suspend"}),
    "succeeds": (succeeds, "Healthy", set()),
    "wrong data": (wrong_data, "Degraded", {"retry"}),
    "tried again": (tried_again, "Progressing", {"suspend"}),
    "suspended": (suspended, "Suspended", {"resume"}),
    "resumed": (resumed, "Progressing", {"suspend"}),
    "asked to stop": (asked_to_stop, "Progressing", {"resume"}),
    "refused": (refused, "Degraded", {"suspend"}),
}


def recorded(live: Callable[[World, Kubelet], None]) -> list[Json]:
    """The job after each look at it, in one life."""
    world, seen = World(), []
    look = world.look

    def recording() -> Any:
        decision = look()
        seen.append(copy.deepcopy(world.job))
        return decision

    world.look = recording  # type: ignore[method-assign]
    live(world, Kubelet(world.api, now=world.clock.now))
    return seen


def every_status() -> Iterator[Json]:
    for live, _, _ in LIVES.values():
        yield from recorded(live)


@pytest.mark.parametrize(("live", "word", "buttons"), LIVES.values(), ids=LIVES)
def test_a_life_ends_as(live: Callable[[World, Kubelet], None], word: str, buttons: set[str]) -> None:
    last = recorded(live)[-1]
    assert health(last) == word
    assert offered(last) == buttons


def test_every_status_that_was_written_has_a_health_that_agrees_with_it() -> None:
    words = set()
    for job in every_status():
        true = {one["type"] for one in job.get("status", {}).get("conditions", []) if one["status"] == "True"}
        word = health(job)
        words.add(word)
        assert (word == "Healthy") == ("Succeeded" in true), true
        assert (word == "Degraded") == ("Stalled" in true), true
        if "Failed" in true:
            assert word == "Degraded"
        assert word != "Suspended" or job["spec"]["suspend"]
        for name in offered(job):
            changed = pressed(job, name)
            before = table_of_numbers(job["spec"])
            assert {key for key in changed if changed[key] != before.get(key)} == {"retry" if name == "retry" else "suspend"}
    assert words == {"Healthy", "Degraded", "Suspended", "Progressing"}


def table_of_numbers(spec: Json) -> Json:
    """The spec as it comes back from Lua unchanged: an empty list and an empty object are the same there."""
    runtime = lua51.LuaRuntime()
    back: Json = plain(table(runtime, spec))
    return back


def test_what_the_operator_has_not_seen_is_progressing() -> None:
    job = recorded(wrong_data)[-1]
    assert health(job) == "Degraded"
    job["metadata"]["generation"] += 1
    assert health(job) == "Progressing"
    del job["status"]
    assert health(job) == "Progressing"
    assert offered(job) == {"suspend"}


def test_retry_counts_on() -> None:
    job = recorded(wrong_data)[-1]
    assert pressed(job, "retry")["retry"] == 1
    job["spec"]["retry"] = 4
    assert pressed(job, "retry")["retry"] == 5
