"""What a reflector survives. The same cases run against the API in memory and against a real API server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.operator.runtime.fake_clock import SkippingClock, eventually
from tests.operator.runtime.faulty_api import Fault, FaultyApi
from tests.operator.runtime.objects import CONFIG_MAPS, NAMESPACE, config_map

from finetune_operator.runtime.api import Api, Json
from finetune_operator.runtime.reflector import Reflector, Store

WATCH = r"GET .*configmaps\?watch=1"
LIST = r"GET .*configmaps\?(?!watch)"
SELECTOR = "finetune=reflector"


class Mirror:
    """A running reflector, and what it reported."""

    def __init__(self, api: Api, namespaces: list[str] | None, clock: SkippingClock, read_timeout_seconds: float) -> None:
        self.store = Store(index=lambda item: [item["data"]["value"]])
        self.clock = clock
        self.changes: list[tuple[str | None, str | None]] = []
        self.states = 0
        self.stop = threading.Event()
        self.reflector = Reflector(
            api,
            CONFIG_MAPS,
            store=self.store,
            on_change=self._changed,
            clock=clock,
            namespaces=namespaces,
            label_selector=SELECTOR,
            on_state=self._state,
            read_timeout_seconds=read_timeout_seconds,
        )
        self.thread = threading.Thread(target=self.reflector.run, args=(self.stop,), daemon=True)

    def _changed(self, old: Json | None, new: Json | None) -> None:
        self.changes.append((described(old), described(new)))

    def _state(self) -> None:
        self.states += 1

    def values(self) -> dict[str, str]:
        """name -> data.value, of all that is known."""
        return {item["metadata"]["name"]: item["data"]["value"] for item in self.store.all()}

    def knows(self, **values: str) -> None:
        """Return when exactly these are known."""
        eventually(lambda: self.values() == values)


def described(item: Json | None) -> str | None:
    return f"{item['metadata']['name']}={item['data']['value']}" if item else None


@contextmanager
def mirror(
    api: Api, namespaces: list[str] | None, clock: SkippingClock | None = None, read_timeout_seconds: float = 3600
) -> Iterator[Mirror]:
    """A reflector of the ConfigMaps that have our label, for as long as the block lasts."""
    running = Mirror(api, namespaces, clock or SkippingClock(), read_timeout_seconds)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(20)
    assert not running.thread.is_alive()


def put(api: Api, name: str, value: str, namespace: str = NAMESPACE) -> None:
    api.create(CONFIG_MAPS, namespace, config_map(name, value, finetune="reflector"))


def change(api: Api, name: str, value: str) -> None:
    api.merge_patch(CONFIG_MAPS, NAMESPACE, name, {"data": {"value": value}})


class ReflectorCases:
    """Fixtures: `server` (a FaultyApi), `api` (its client)."""

    def test_it_lists_then_follows(self, api: Api) -> None:
        put(api, "a", "1")
        api.create(CONFIG_MAPS, NAMESPACE, config_map("not-ours"))
        with mirror(api, [NAMESPACE]) as seen:
            assert seen.reflector.synced.wait(20)
            assert seen.values() == {"a": "1"}
            put(api, "b", "1")
            change(api, "a", "2")
            seen.knows(a="2", b="1")
            api.delete(CONFIG_MAPS, NAMESPACE, "a")
            seen.knows(b="1")
            assert seen.changes == [(None, "a=1"), (None, "b=1"), ("a=1", "a=2"), ("a=2", None)]
            assert [item["metadata"]["name"] for item in seen.store.by_index("1")] == ["b"]
            listed = seen.store.get(NAMESPACE, "b")
            assert listed is not None
            assert listed["kind"] == "ConfigMap"

    def test_a_label_that_is_taken_off_is_a_delete(self, api: Api) -> None:
        put(api, "a", "1")
        with mirror(api, [NAMESPACE]) as seen:
            seen.knows(a="1")
            api.merge_patch(CONFIG_MAPS, NAMESPACE, "a", {"metadata": {"labels": None}})
            seen.knows()
            assert seen.changes[-1] == ("a=1", None)

    @pytest.mark.parametrize("action", ["end", "cut", "garbage", "half", "page"])
    def test_a_watch_that_ends_or_breaks_is_resumed_without_a_list(self, api: Api, server: FaultyApi, action: str) -> None:
        put(api, "a", "1")
        server.faults.append(Fault(match=WATCH, action=action, times=3))  # type: ignore[arg-type]
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: server.count(WATCH) == 4)
            put(api, "b", "1")
            seen.knows(a="1", b="1")
            assert server.count(LIST) == 1
            assert seen.changes == [(None, "a=1"), (None, "b=1")]

    def test_a_watch_that_ends_at_once_is_tried_again_ever_more_slowly(self, api: Api, server: FaultyApi) -> None:
        server.faults.append(Fault(match=WATCH, action="end", times=10))
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: server.count(WATCH) == 11)
            for attempt, wait in enumerate(seen.clock.waits[:10]):
                middle = min(0.5 * 2**attempt, 30)
                assert 0.5 * middle <= wait <= 1.5 * middle
            assert len(set(seen.clock.waits)) == len(seen.clock.waits), "jitter"

    def test_a_half_open_watch_is_noticed(self, api: Api, server: FaultyApi) -> None:
        put(api, "a", "1")
        server.faults.append(Fault(match=WATCH, action="silent"))
        with mirror(api, [NAMESPACE], read_timeout_seconds=0.3) as seen:
            seen.knows(a="1")
            eventually(lambda: server.count(WATCH) >= 1)
            put(api, "b", "1")
            change(api, "a", "2")
            seen.knows(a="2", b="1")
            assert server.count(LIST) == 1

    @pytest.mark.parametrize("action", ["expired", "refuse"])
    def test_a_version_that_is_too_old_means_a_list_and_reports_what_was_missed(self, api: Api, server: FaultyApi, action: str) -> None:
        put(api, "a", "1")
        put(api, "b", "1")
        server.faults.append(Fault(match=WATCH, action="cut"))  # the events below are missed
        server.faults.append(Fault(match=WATCH, action=action, status=410))  # type: ignore[arg-type]
        clock = PausedClock()
        with mirror(api, [NAMESPACE], clock) as seen:
            clock.paused.wait(20)
            api.delete(CONFIG_MAPS, NAMESPACE, "a")
            change(api, "b", "2")
            put(api, "c", "1")
            clock.go_on.set()
            seen.knows(b="2", c="1")
            eventually(lambda: server.count(WATCH) >= 3)
            assert sorted(seen.changes[2:], key=str) == sorted([("b=1", "b=2"), (None, "c=1"), ("a=1", None)], key=str)
            assert server.count(LIST) == 2

    def test_410_again_and_again_is_no_hot_loop(self, api: Api, server: FaultyApi) -> None:
        server.faults.append(Fault(match=WATCH, action="expired", times=8))
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: server.count(WATCH) == 9)
            assert server.count(LIST) == 9
            assert len(seen.clock.waits) >= 8
            assert sum(seen.clock.waits) > 30

    @pytest.mark.parametrize("status", [401, 429, 500, 503])
    def test_a_server_that_refuses_is_asked_again(self, api: Api, server: FaultyApi, status: int) -> None:
        put(api, "a", "1")
        server.faults.append(Fault(match=LIST, action="refuse", status=status, times=3, retry_after=20))
        server.faults.append(Fault(match=WATCH, action="refuse", status=status, times=1))
        with mirror(api, [NAMESPACE]) as seen:
            seen.knows(a="1")
            change(api, "a", "2")
            seen.knows(a="2")
            assert all(wait >= 20 for wait in seen.clock.waits[:3]), "it said when to come back"

    def test_a_version_of_the_future_is_given_up(self, api: Api, server: FaultyApi) -> None:
        put(api, "a", "1")
        server.faults.append(Fault(match=WATCH, action="refuse", status=504, times=3))
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: server.count(WATCH) == 4)
            assert server.count(LIST) == 2, "refused three times: listed"
            change(api, "a", "2")
            seen.knows(a="2")

    def test_connections_that_all_break_at_once(self, api: Api, server: FaultyApi) -> None:
        put(api, "a", "1")
        with mirror(api, [NAMESPACE]) as seen:
            for number, value in enumerate(("2", "3", "4"), start=1):
                eventually(lambda number=number: server.count(WATCH) == number)
                server.drop_connections()
                change(api, "a", value)
                seen.knows(a=value)
            assert server.count(LIST) == 1
            assert seen.reflector.problem() is None

    def test_a_right_that_is_missing_is_seen_and_noticed_soon_when_it_is_granted(self, api: Api, server: FaultyApi) -> None:
        put(api, "a", "1")
        server.faults.append(forbidden := Fault(match=LIST, action="refuse", status=403, times=10**6))
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: seen.reflector.forbidden and server.count(LIST) > 8)
            assert not seen.reflector.synced.is_set()
            assert not seen.reflector.listed, "where nothing may be read, nothing is known"
            assert max(seen.clock.waits) <= 10
            forbidden.times = 0
            seen.knows(a="1")
            eventually(lambda: not seen.reflector.forbidden)
            assert seen.reflector.synced.is_set()

    def test_stopping_wakes_a_watch_that_waits(self, api: Api, server: FaultyApi) -> None:
        with mirror(api, [NAMESPACE]) as seen:
            eventually(lambda: server.count(WATCH) == 1)
            assert seen.thread.is_alive()
        sent = len(server.requests)
        api.list_pages(CONFIG_MAPS, NAMESPACE)
        assert len(server.requests) == sent + 1, "nothing more was asked"


class PausedClock(SkippingClock):
    """The first wait goes on when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = threading.Event()
        self.go_on = threading.Event()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.paused.set()
        self.go_on.wait(20)
        return super().wait(event, seconds)
