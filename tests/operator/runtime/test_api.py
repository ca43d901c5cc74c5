"""The API client over real sockets."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.client import Configuration
from kubernetes.config.incluster_config import InClusterConfigLoader
from tests.operator.runtime.certificates import server_context
from tests.operator.runtime.fake_clock import FakeClock, eventually
from tests.operator.runtime.faulty_api import Fault, FaultyApi, faulty_api
from tests.operator.runtime.memory_api import MemoryApi
from tests.operator.runtime.objects import CONFIG_MAPS, JOBS, config_map

from finetune_operator.runtime.api import (
    AlreadyExists,
    Api,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    NotPermitted,
    Resource,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    Unreadable,
)
from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.transport import Transport


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (CONFIG_MAPS, (None,), "/api/v1/configmaps"),
        (CONFIG_MAPS, ("a", "b"), "/api/v1/namespaces/a/configmaps/b"),
        (JOBS, ("a", "b", "status"), "/apis/batch/v1/namespaces/a/jobs/b/status"),
        (Resource("", "v1", "nodes", "Node"), (None, "n"), "/api/v1/nodes/n"),
        (JOBS, ("a", "x/../../y"), "/apis/batch/v1/namespaces/a/jobs/x%2F..%2F..%2Fy"),
    ],
)
def test_paths(resource: Resource, arguments: tuple[str, ...], path: str) -> None:
    assert resource.path(*arguments) == path


@pytest.mark.parametrize("arguments", [("",), ("a", ""), ("a", ".."), ("a", "b", "")])
def test_a_path_that_would_mean_another_object_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="can't be part of a path"):
        JOBS.path(*arguments)


def test_an_object_through_its_life(api: Api) -> None:
    created = api.create(CONFIG_MAPS, "default", config_map("a", "1"))
    assert api.get(CONFIG_MAPS, "default", "a") == created
    patched = api.merge_patch(CONFIG_MAPS, "default", "a", {"data": {"value": "2", "more": "x"}})
    assert patched["data"] == {"value": "2", "more": "x"}
    replaced = api.replace(CONFIG_MAPS, "default", "a", {**patched, "data": {}})
    assert replaced["data"] == {}
    with pytest.raises(Conflict, match="modified"):
        api.replace(CONFIG_MAPS, "default", "a", patched)
    with pytest.raises(Conflict):
        api.delete(CONFIG_MAPS, "default", "a", uid="another")
    with pytest.raises(Conflict):
        api.delete(CONFIG_MAPS, "default", "a", resource_version=patched["metadata"]["resourceVersion"])
    uid, version = created["metadata"]["uid"], replaced["metadata"]["resourceVersion"]
    api.delete(CONFIG_MAPS, "default", "a", uid=uid, resource_version=version)
    with pytest.raises(NotFound):
        api.delete(CONFIG_MAPS, "default", "a")


def test_a_name_that_is_taken_is_told_from_a_changed_object(api: Api) -> None:
    api.create(CONFIG_MAPS, "default", config_map("a"))
    with pytest.raises(AlreadyExists) as caught:
        api.create(CONFIG_MAPS, "default", config_map("a"))
    assert isinstance(caught.value, Conflict)
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert "POST /api/v1/namespaces/default/configmaps" in str(caught.value)


def test_unknown_fields_are_refused_unless_told_otherwise(api: Api, server: FaultyApi) -> None:
    api.create(CONFIG_MAPS, "default", config_map("a"))
    api.create(CONFIG_MAPS, "default", config_map("b"), strict=False)
    assert [request.partition("?")[2] for request in server.requests] == ["fieldValidation=Strict", ""]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiError),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, TooManyRequests),
        (500, ServerError),
        (503, ServerError),
    ],
)
def test_every_refusal_has_its_error_and_is_not_tried_again(api: Api, server: FaultyApi, status: int, kind: type[ApiError]) -> None:
    server.faults.append(Fault(match="POST", action="refuse", status=status, retry_after=7))
    with pytest.raises(ApiError) as caught:
        api.create(CONFIG_MAPS, "default", config_map("a"))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.retry_after_seconds) == (status, 7)
    assert len(server.requests) == 1


def test_a_write_whose_answer_is_lost_is_not_repeated(api: Api, server: FaultyApi, memory: MemoryApi) -> None:
    server.faults.append(Fault(match="POST", action="lose"))
    with pytest.raises(Unreachable):
        api.create(CONFIG_MAPS, "default", config_map("a"))
    assert server.count("POST") == 1
    assert api.get(CONFIG_MAPS, "default", "a")["data"] == {"value": ""}


@pytest.mark.parametrize("action", ["cut", "hang"])
def test_no_answer_is_unreachable(api: Api, server: FaultyApi, action: str) -> None:
    server.faults.append(Fault(match="GET", action=action))  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        api.with_timeout(0.2).get(CONFIG_MAPS, "default", "a")


def test_nobody_listening_is_unreachable(server: FaultyApi, tmp_path: Path, memory: MemoryApi) -> None:
    with faulty_api(memory) as gone:
        kubeconfig = gone.kubeconfig(tmp_path)
    with pytest.raises(Unreachable, match="refused"):
        Api.connect(kubeconfig, user_agent="tests").get(CONFIG_MAPS, "default", "a")


def test_a_page_of_a_proxy_is_no_object(api: Api, server: FaultyApi) -> None:
    server.faults.append(Fault(match="GET", action="page"))
    with pytest.raises(Unreadable, match="Please log in"):
        api.get(CONFIG_MAPS, "default", "a")


def test_connections_are_used_again_also_after_the_server_dropped_them(api: Api, server: FaultyApi) -> None:
    api.create(CONFIG_MAPS, "default", config_map("a"))
    server.drop_connections()
    eventually(lambda: not server.connections)
    assert api.get(CONFIG_MAPS, "default", "a")["metadata"]["name"] == "a"


def test_lists_come_by_pages_and_their_items_say_what_they_are(api: Api, server: FaultyApi) -> None:
    for number in range(5):
        api.create(CONFIG_MAPS, "default", config_map(str(number), colour="red" if number % 2 else "blue"))
    items, version = api.list_pages(CONFIG_MAPS, "default", limit=2)
    assert [item["metadata"]["name"] for item in items] == list("01234")
    assert {(item["apiVersion"], item["kind"]) for item in items} == {("v1", "ConfigMap")}
    assert server.count("limit=2") == 3
    assert version == items[-1]["metadata"]["resourceVersion"]
    red, _ = api.list_pages(CONFIG_MAPS, None, label_selector="colour=red")
    assert [item["metadata"]["name"] for item in red] == ["1", "3"]


def test_a_list_that_is_compacted_between_two_pages_is_taken_whole(api: Api, server: FaultyApi) -> None:
    for number in range(5):
        api.create(CONFIG_MAPS, "default", config_map(str(number)))
    server.faults.append(Fault(match="continue=4", action="refuse", status=410))
    items, _ = api.list_pages(CONFIG_MAPS, "default", limit=2)
    assert [item["metadata"]["name"] for item in items] == list("01234")
    assert "limit" not in server.requests[-1]


def test_writes_need_the_permit_and_reads_do_not(api: Api, server: FaultyApi) -> None:
    left = 5.0
    fenced = api.fenced(lambda: left)
    fenced.create(CONFIG_MAPS, "default", config_map("a"))
    left = 0.0
    sent = len(server.requests)
    for write in (
        lambda: fenced.create(CONFIG_MAPS, "default", config_map("b")),
        lambda: fenced.replace(CONFIG_MAPS, "default", "a", config_map("a")),
        lambda: fenced.merge_patch(CONFIG_MAPS, "default", "a", {}),
        lambda: fenced.delete(CONFIG_MAPS, "default", "a"),
    ):
        with pytest.raises(NotPermitted):
            write()
    assert len(server.requests) == sent
    fenced.get(CONFIG_MAPS, "default", "a")
    api.delete(CONFIG_MAPS, "default", "a")


def test_a_write_gives_up_when_the_permit_ends(api: Api, server: FaultyApi) -> None:
    server.faults.append(Fault(match="POST", action="hang"))
    with pytest.raises(Unreachable, match="timed out"):
        api.with_timeout(3600).fenced(lambda: 0.1).create(CONFIG_MAPS, "default", config_map("a"))


def test_every_exchange_is_counted_by_method_code_and_server(server: FaultyApi, tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    api = Api.connect(server.kubeconfig(tmp_path), user_agent="tests", observe=lambda *exchange: seen.append(exchange))
    server.faults.append(Fault(match="GET.*/b", action="cut"))
    api.create(CONFIG_MAPS, "default", config_map("a"))
    with pytest.raises(NotFound):
        api.get(CONFIG_MAPS, "default", "a1")
    with pytest.raises(Unreachable):
        api.get(CONFIG_MAPS, "default", "b")
    host = server.url.removeprefix("http://")
    assert seen == [("POST", "201", host), ("GET", "404", host), ("GET", "<error>", host)]


# --- credentials


def test_expired_credentials_are_loaded_anew_once(server: FaultyApi, tmp_path: Path) -> None:
    clock = FakeClock()
    api = Api.connect(server.kubeconfig(tmp_path, token="first"), user_agent="tests", clock=clock)
    server.kubeconfig(tmp_path, token="second")
    server.faults.append(Fault(match=".", action="refuse", status=401, times=1))
    clock.advance(10)
    api.create(CONFIG_MAPS, "default", config_map("a"))
    assert server.tokens == ["Bearer first", "Bearer second"]
    server.faults.append(Fault(match=".", action="refuse", status=401, times=9))
    with pytest.raises(Unauthorized):
        api.get(CONFIG_MAPS, "default", "a")
    assert len(server.tokens) == 3, "loaded a moment ago: trying again is pointless"


def test_threads_that_are_refused_together_all_go_on_with_the_new_credentials(server: FaultyApi, tmp_path: Path) -> None:
    clock = FakeClock()
    api = Api.connect(server.kubeconfig(tmp_path, token="first"), user_agent="tests", clock=clock)
    api.create(CONFIG_MAPS, "default", config_map("a"))
    server.kubeconfig(tmp_path, token="second")
    server.faults.append(Fault(match="GET", action="refuse", status=401, times=4, token="Bearer first"))
    clock.advance(10)
    together = threading.Barrier(4)
    got: list[str] = []

    def ask() -> None:
        together.wait()
        got.append(api.get(CONFIG_MAPS, "default", "a")["metadata"]["name"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["a"] * 4


def test_a_pods_token_is_read_again_and_a_token_file_that_is_empty_for_a_moment_does_no_harm(server: FaultyApi, tmp_path: Path) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first\n")
    authority.write_text("unused")

    def load() -> Configuration:
        loaded = Configuration()
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
        InClusterConfigLoader(str(token), str(authority), environ=environ).load_and_set(loaded)
        loaded.host = server.url
        return loaded

    clock = FakeClock()
    api = Api(Transport(load, clock=clock, user_agent="tests"))
    server.faults.append(Fault(match=".", action="refuse", status=401, times=2))
    token.write_text("")
    clock.advance(10)
    with pytest.raises(Unauthorized):
        api.get(CONFIG_MAPS, "default", "a")
    token.write_text("second\n")
    clock.advance(10)
    with pytest.raises(NotFound):
        api.get(CONFIG_MAPS, "default", "a")
    assert [value.lower() for value in server.tokens if value] == ["bearer first", "bearer first", "bearer second"]


def test_an_exec_plugin_gives_the_token(server: FaultyApi, tmp_path: Path) -> None:
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"print({json.dumps(credential)!r})")
    kubeconfig = server.kubeconfig(tmp_path)
    content = yaml.safe_load(kubeconfig.read_text())
    command = {"command": sys.executable, "args": [str(plugin)], "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **command}}
    kubeconfig.write_text(yaml.safe_dump(content))
    with pytest.raises(NotFound):
        Api.connect(kubeconfig, user_agent="tests").get(CONFIG_MAPS, "default", "a")
    assert server.tokens == ["Bearer from-plugin"]


def test_through_a_proxy_that_the_kubeconfig_names(server: FaultyApi, tmp_path: Path) -> None:
    kubeconfig = server.kubeconfig(tmp_path)
    content = yaml.safe_load(kubeconfig.read_text())
    content["clusters"][0]["cluster"] = {"server": "http://api.invalid:80", "proxy-url": server.url}
    kubeconfig.write_text(yaml.safe_dump(content))
    with pytest.raises(NotFound):
        Api.connect(kubeconfig, user_agent="tests").get(CONFIG_MAPS, "default", "a")
    assert server.requests == ["GET http://api.invalid:80/api/v1/namespaces/default/configmaps/a"]


# --- watches


def test_a_watch_gives_what_changes_after_its_version(api: Api) -> None:
    api.create(CONFIG_MAPS, "default", config_map("before"))
    _, version = api.list_pages(CONFIG_MAPS, None)
    api.create(CONFIG_MAPS, "default", config_map("a"))
    api.merge_patch(CONFIG_MAPS, "default", "a", {"data": {"value": "1"}})
    api.delete(CONFIG_MAPS, "default", "a")
    seen = []
    with api.watch(CONFIG_MAPS, None, version) as watch:
        for event in watch:
            seen.append((event.type, event.object["metadata"].get("name")))
            if event.type == "DELETED":
                break
    assert [event for event in seen if event[0] != "BOOKMARK"] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


def test_a_silent_watch_ends_at_the_read_timeout(api: Api, server: FaultyApi) -> None:
    server.faults.append(Fault(match="watch=1", action="silent"))
    with api.watch(CONFIG_MAPS, None, "100", read_timeout_seconds=0.1) as watch:
        assert list(watch) == []


@pytest.mark.parametrize(
    ("action", "kind"), [("garbage", Unreadable), ("half", Unreachable), ("expired", Gone), ("page", Unreadable), ("cut", Unreachable)]
)
def test_a_broken_watch_says_how(api: Api, server: FaultyApi, action: str, kind: type[ApiError]) -> None:
    server.faults.append(Fault(match="watch=1", action=action))  # type: ignore[arg-type]
    with pytest.raises(kind), api.watch(CONFIG_MAPS, None, "100") as watch:
        list(watch)


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (404, NotFound), (410, Gone), (429, TooManyRequests), (500, ServerError)])
def test_a_watch_that_is_refused_is_an_error_like_any_other(api: Api, server: FaultyApi, status: int, kind: type[ApiError]) -> None:
    server.faults.append(Fault(match="watch=1", action="refuse", status=status))
    with pytest.raises(kind):
        api.watch(CONFIG_MAPS, None, "100")


class InPieces:
    """A backend whose watch is sent as these chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        return 404, b"{}"

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        yield from self.chunks


def watched(tmp_path: Path, *chunks: bytes) -> list[str]:
    """Names in the events of a watch that comes in `chunks`."""
    with faulty_api(InPieces(*chunks)) as server:
        api = Api.connect(server.kubeconfig(tmp_path), user_agent="tests")
        with api.watch(CONFIG_MAPS, None, "1") as watch:
            return [event.object["metadata"]["name"] for event in watch]


def line(name: str) -> bytes:
    return json.dumps({"type": "ADDED", "object": {"metadata": {"name": name, "resourceVersion": "2"}}}).encode() + b"\n"


def test_events_may_come_in_any_pieces(tmp_path: Path) -> None:
    both = line("a" * 3000) + line("b")
    pieces = [both[start : start + 7] for start in range(0, len(both), 7)]
    assert watched(tmp_path, *pieces) == ["a" * 3000, "b"]
    assert watched(tmp_path, line("a") + line("b") + line("c")[:5], line("c")[5:]) == ["a", "b", "c"]
    assert watched(tmp_path, line("a"), b"\n") == ["a"]


@pytest.mark.parametrize(
    "bad",
    [
        b"{}\n",
        b"[1]\n",
        b'{"type":"ADDED","object":null}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n',
        b'{"type":"NEW","object":{"metadata":{"name":"a","resourceVersion":"2"}}}\n',
        b"\xff\xfe\n",
        line("a")[:20],
    ],
)
def test_a_line_that_is_no_event_is_unreadable(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(Unreadable):
        watched(tmp_path, bad)


def stopped_from_elsewhere(api: Api) -> bool:
    """Whether another thread can end a watch that waits."""
    with api.watch(CONFIG_MAPS, None, "100", read_timeout_seconds=3600) as watch:
        reader = threading.Thread(target=lambda: list(watch), daemon=True)
        reader.start()
        reader.join(0.1)
        waiting = reader.is_alive()
        watch.stop()
        watch.stop()
        reader.join(20)
        return waiting and not reader.is_alive()


def test_another_thread_stops_a_watch_that_waits(api: Api, server: FaultyApi) -> None:
    server.faults.append(Fault(match="watch=1", action="silent"))
    assert stopped_from_elsewhere(api)


# --- TLS


def test_the_servers_certificate_is_checked_and_watches_stop_over_tls_too(memory: MemoryApi, tmp_path: Path) -> None:
    context, authority = server_context(tmp_path)
    (tmp_path / "other").mkdir()
    _, stranger = server_context(tmp_path / "other")
    with faulty_api(memory, context) as server:
        wrong = Api.connect(server.kubeconfig(tmp_path, certificate_authority=stranger), user_agent="tests", timeout_seconds=5)
        with pytest.raises(Unreachable, match="certificate"):
            wrong.get(CONFIG_MAPS, "default", "a")
        assert server.requests == []
        api = Api.connect(server.kubeconfig(tmp_path, certificate_authority=authority), user_agent="tests", timeout_seconds=5)
        api.create(CONFIG_MAPS, "default", config_map("a"))
        server.faults.append(Fault(match="watch=1", action="silent"))
        assert stopped_from_elsewhere(api)
        api.close()


def test_outside_a_pod_and_without_a_kubeconfig_the_error_says_so() -> None:
    from kubernetes.config import ConfigException

    with pytest.raises(ConfigException, match="Service"):
        Api.connect(None, user_agent="tests", clock=SystemClock())
