"""The reflector: the shared cases, and those that a real API server can't be brought to show."""

import threading

import pytest
from tests.operator.runtime.fake_clock import FakeClock, SkippingClock, eventually
from tests.operator.runtime.faulty_api import Fault, FaultyApi
from tests.operator.runtime.memory_api import MemoryApi
from tests.operator.runtime.objects import CONFIG_MAPS, NAMESPACE
from tests.operator.runtime.reflector_cases import LIST, WATCH, ReflectorCases, change, mirror, put

from finetune_operator.runtime.api import Api, Json
from finetune_operator.runtime.reflector import Reflector, Store

COLLECTION = "api/v1/configmaps"


class TestReflector(ReflectorCases):
    """Against the API in memory."""


PAGES = r"GET .*configmaps\?limit"
STREAM = r"GET .*configmaps\?sendInitialEvents"


@pytest.mark.parametrize("streams", [True, False])
def test_everything_comes_by_a_watch_where_the_api_server_can(api: Api, server: FaultyApi, memory: MemoryApi, streams: bool) -> None:
    memory.streams = streams
    put(api, "a", "1")
    with mirror(api, [NAMESPACE]) as seen:
        seen.knows(a="1")
        eventually(lambda: server.count(WATCH) == 1)
    assert (server.count(STREAM), server.count(PAGES)) == (1, 0 if streams else 1)


@pytest.mark.parametrize("action", ["end", "garbage", "half", "expired", "cut"])
def test_a_stream_that_breaks_is_followed_by_a_list(api: Api, server: FaultyApi, action: str) -> None:
    put(api, "a", "1")
    server.faults.append(Fault(match=STREAM, action=action))  # type: ignore[arg-type]
    with mirror(api, [NAMESPACE]) as seen:
        seen.knows(a="1")
        eventually(lambda: server.count(WATCH) == 1)
    assert (server.count(STREAM), server.count(PAGES)) == (1, 1)


@pytest.mark.parametrize("namespaces", [None, ["one", "two"]])
def test_several_namespaces_or_the_whole_cluster(api: Api, server: FaultyApi, namespaces: list[str] | None) -> None:
    for namespace in ("one", "two", "three"):
        put(api, f"in-{namespace}", "1", namespace)
    with mirror(api, namespaces) as seen:
        assert seen.reflector.synced.wait(20)
        assert {item["metadata"]["namespace"] for item in seen.store.all()} == set(namespaces or ["one", "two", "three"])
        put(api, "more", "1", "two")
        eventually(lambda: "more" in seen.values())
    asked = [request for request in server.requests if "GET" in request]
    assert all(("/namespaces/" in request) == bool(namespaces) for request in asked)


def test_one_forbidden_namespace_holds_up_synced_but_not_the_other_namespace(api: Api, server: FaultyApi) -> None:
    put(api, "a", "1", "one")
    server.faults.append(refused := Fault(match="GET .*/namespaces/two/", action="refuse", status=403, times=10**6))
    with mirror(api, ["one", "two"]) as seen:
        seen.knows(a="1")
        eventually(lambda: seen.reflector.forbidden)
        assert not seen.reflector.synced.is_set()
        eventually(lambda: seen.reflector.listed)
        assert seen.reflector.listed_in("one")
        assert not seen.reflector.forbidden_in("one")
        assert not seen.reflector.listed_in("two")
        assert seen.reflector.forbidden_in("two")
        refused.times = 0
        assert seen.reflector.synced.wait(20)
        eventually(lambda: not seen.reflector.forbidden)


def test_history_that_is_compacted_away(api: Api, server: FaultyApi, memory: MemoryApi) -> None:
    put(api, "a", "1")
    server.faults.append(Fault(match=WATCH, action="silent"))
    with mirror(api, [NAMESPACE], read_timeout_seconds=0.3) as seen:
        seen.knows(a="1")
        eventually(lambda: server.count(WATCH) == 1)
        change(api, "a", "2")
        memory.compact()
        seen.knows(a="2")
        assert server.count(LIST) == 2


def test_a_server_restored_from_a_backup_has_lower_versions(api: Api, server: FaultyApi, memory: MemoryApi) -> None:
    for value in "123":
        put(api, f"a{value}", value)
    with mirror(api, [NAMESPACE]) as seen:
        eventually(lambda: server.count(WATCH) == 1)
        memory.restore()
        server.drop_connections()
        eventually(lambda: server.count(LIST) == 2)
        change(api, "a1", "9")
        seen.knows(a1="9", a2="2", a3="3")


def test_a_crd_that_comes_later(api: Api, server: FaultyApi, memory: MemoryApi) -> None:
    memory.absent.add(COLLECTION)
    with mirror(api, None) as seen:
        eventually(lambda: seen.reflector.absent and server.count(LIST) > 8)
        assert max(seen.clock.waits) <= 10, "a person waits for it"
        assert not seen.reflector.synced.is_set()
        states = seen.states
        memory.absent.clear()
        put(api, "a", "1")
        seen.knows(a="1")
        eventually(lambda: not seen.reflector.absent and seen.states > states)


def test_objects_are_believed_gone_only_when_their_crd_stays_absent(api: Api, server: FaultyApi, memory: MemoryApi) -> None:
    put(api, "a", "1")
    clock = FakeClock()
    store, gone = Store(), list[Json | None]()
    reflector = Reflector(api, CONFIG_MAPS, store=store, on_change=lambda old, new: gone.append(old), clock=clock)
    stop = threading.Event()
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    name = "reflector-configmaps-all"
    eventually(lambda: server.count(WATCH) == 1)
    memory.absent.add(COLLECTION)
    server.drop_connections()
    waited = 0.0
    while not reflector.absent or waited < 29:
        clock.asleep(name)
        assert len(store) == 1
        waited += 1.0 if reflector.absent else 0.0
        clock.advance(1)
    eventually(lambda: clock.advance(0.1) or len(store) == 0)
    assert gone[-1] is not None
    stop.set()
    thread.join(20)


def test_a_callback_that_raises_stops_nothing(api: Api) -> None:
    put(api, "a", "1")
    store, stop = Store(), threading.Event()

    def bad(old: Json | None, new: Json | None) -> None:
        raise RuntimeError("of the callback")

    reflector = Reflector(api, CONFIG_MAPS, store=store, on_change=bad, clock=SkippingClock())
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    assert reflector.synced.wait(20)
    put(api, "b", "1")
    eventually(lambda: len(store) == 2)
    stop.set()
    thread.join(20)


def test_health_is_a_thread_that_is_heard_of(api: Api, server: FaultyApi) -> None:
    clock, stop = FakeClock(), threading.Event()
    server.faults.append(Fault(match=WATCH, action="silent", times=10**6))
    reflector = Reflector(api, CONFIG_MAPS, store=Store(), on_change=lambda old, new: None, clock=clock)
    assert reflector.problem() is None, "not started"
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    assert reflector.synced.wait(20)
    eventually(lambda: server.count(WATCH) == 1)
    clock.advance(299)
    assert reflector.problem() is None
    clock.advance(2)
    assert reflector.problem() == "reflector-configmaps-all has been silent for 301 s"
    stop.set()
    thread.join(20)
    assert reflector.problem() == "reflector-configmaps-all has died"
