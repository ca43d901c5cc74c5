"""The runtime against a real API server: the cases that also run against one in memory, and what only a real one can show."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.control_plane.runtime_backend import RealApi
from tests.operator.runtime.fake_clock import eventually
from tests.operator.runtime.faulty_api import FaultyApi, faulty_api
from tests.operator.runtime.lease_cases import LeaseCases
from tests.operator.runtime.objects import CONFIG_MAPS, NAMESPACE, config_map
from tests.operator.runtime.reflector_cases import ReflectorCases, change, mirror, put
from tests.testcluster.control_plane import ControlPlane

from finetune_operator.runtime.api import (
    AlreadyExists,
    Api,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    Json,
    NotFound,
    Resource,
    Unreachable,
)
from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.controller import Controller
from finetune_operator.runtime.lease import LEASES
from finetune_operator.runtime.reflector import Reflector, Store
from finetune_operator.runtime.workqueue import WorkQueue

pytestmark = pytest.mark.control_plane

NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
WIDGETS = Resource("runtime.test", "v1", "widgets", "Widget")
ROOT = "kube-root-ca.crt"  # the controller manager's, in every namespace


@pytest.fixture(scope="module")
def direct(control_plane: ControlPlane) -> Iterator[Api]:
    """A client of the API server itself, by client certificate, and the namespace of this file."""
    api = Api.connect(control_plane.kubeconfig, user_agent="runtime-tests")
    api.create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield api
    api.close()


@pytest.fixture(autouse=True)
def empty(direct: Api) -> None:
    """Each test finds the namespace empty."""
    for resource in (CONFIG_MAPS, LEASES):
        for item in direct.list_pages(resource, NAMESPACE)[0]:
            if item["metadata"]["name"] != ROOT:
                direct.delete(resource, NAMESPACE, item["metadata"]["name"])


@pytest.fixture
def server(control_plane: ControlPlane) -> Iterator[FaultyApi]:
    """The server that lies, in front of the real one."""
    backend = RealApi(control_plane.kubeconfig)
    with faulty_api(backend) as running:
        yield running
    backend.close()


@pytest.fixture
def api(server: FaultyApi, tmp_path: Path) -> Iterator[Api]:
    """A client of `server`."""
    client = Api.connect(server.kubeconfig(tmp_path), user_agent="runtime-tests", timeout_seconds=10)
    yield client
    client.close()


class TestReflector(ReflectorCases):
    """Against the real API server."""


class TestLease(LeaseCases):
    """Against the real API server."""


def test_errors_of_a_real_server(direct: Api) -> None:
    created = direct.create(CONFIG_MAPS, NAMESPACE, config_map("a", "1"))
    with pytest.raises(AlreadyExists, match='configmaps "a" already exists'):
        direct.create(CONFIG_MAPS, NAMESPACE, config_map("a"))
    with pytest.raises(ApiError, match="unknown field"):
        direct.create(CONFIG_MAPS, NAMESPACE, {**config_map("b"), "datum": {}})
    with pytest.raises(Invalid):
        direct.create(CONFIG_MAPS, NAMESPACE, config_map("Not_A_Name"))
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        direct.create(CONFIG_MAPS, "nowhere", config_map("a"))
    with pytest.raises(NotFound):
        direct.list_pages(WIDGETS, NAMESPACE)
    changed = direct.merge_patch(CONFIG_MAPS, NAMESPACE, "a", {"data": {"value": "2"}})
    stale: Json = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"value": "3"}}
    with pytest.raises(Conflict, match="has been modified"):
        direct.merge_patch(CONFIG_MAPS, NAMESPACE, "a", stale)
    with pytest.raises(Conflict):
        direct.replace(CONFIG_MAPS, NAMESPACE, "a", created)
    with pytest.raises(Conflict, match="UID"):
        direct.delete(CONFIG_MAPS, NAMESPACE, "a", uid="00000000-0000-0000-0000-000000000000")
    direct.delete(CONFIG_MAPS, NAMESPACE, "a", uid=changed["metadata"]["uid"])
    with pytest.raises(NotFound):
        direct.get(CONFIG_MAPS, NAMESPACE, "a")


def test_pages_of_a_real_server(direct: Api) -> None:
    for number in range(5):
        put(direct, f"a{number}", "1", NAMESPACE)
    pages = list(direct.pages(CONFIG_MAPS, NAMESPACE, label_selector="finetune=reflector", limit=2))
    assert [len(items) for items, _ in pages] == [2, 2, 1]
    assert len({version for _, version in pages}) == 1, "one list, however many pages"
    assert {item["kind"] for items, _ in pages for item in items} == {"ConfigMap"}
    items, version = direct.list_pages(CONFIG_MAPS, NAMESPACE, label_selector="finetune=reflector", limit=2)
    assert len(items) == 5
    assert int(version) >= int(pages[0][1]), "others write meanwhile"


def test_a_real_server_ends_a_watch_at_its_time(direct: Api) -> None:
    _, version = direct.list_pages(CONFIG_MAPS, NAMESPACE)
    with direct.watch(CONFIG_MAPS, NAMESPACE, version, timeout_seconds=2, read_timeout_seconds=3600) as watch:
        assert {event.type for event in watch} <= {"BOOKMARK"}


def test_a_watch_over_real_tls_is_stopped_from_elsewhere(direct: Api) -> None:
    _, version = direct.list_pages(CONFIG_MAPS, NAMESPACE)
    with direct.watch(CONFIG_MAPS, NAMESPACE, version, read_timeout_seconds=3600) as watch:
        reader = threading.Thread(target=lambda: list(watch), daemon=True)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        watch.stop()
        reader.join(20)
        assert not reader.is_alive()


def test_the_api_server_is_restarted(direct: Api, control_plane: ControlPlane) -> None:
    put(direct, "a", "1", NAMESPACE)
    store, stop = Store(), threading.Event()
    queue: WorkQueue[str] = WorkQueue(SystemClock())
    written: list[str] = []

    def copy(key: str) -> None:
        item = store.get(NAMESPACE, key)
        assert item is not None
        written.append(direct.merge_patch(CONFIG_MAPS, NAMESPACE, key, {"data": {"copy": item["data"]["value"]}})["data"]["copy"])

    controller = Controller(queue, copy, clock=SystemClock())
    reflector = Reflector(
        direct,
        CONFIG_MAPS,
        store=store,
        on_change=lambda old, new: queue.add(new["metadata"]["name"]) if new else None,
        clock=SystemClock(),
        namespaces=[NAMESPACE],
        label_selector="finetune=reflector",
    )
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    controller.start()
    eventually(lambda: "1" in written)
    control_plane.stop_api_server()
    with pytest.raises(Unreachable):
        direct.get(CONFIG_MAPS, NAMESPACE, "a")
    queue.add("a")  # fails until the server is back
    eventually(lambda: queue.failures("a") > 3)
    control_plane.start_api_server()
    change(direct, "a", "2")
    eventually(lambda: "2" in written, limit_seconds=60)
    assert reflector.problem() is None
    assert controller.problem() is None
    with pytest.raises(Gone), direct.watch(CONFIG_MAPS, NAMESPACE, "1") as watch:
        list(watch)  # its history begins with its start
    stop.set()
    assert controller.stop()
    thread.join(20)


def test_rights_in_one_namespace_are_enough_and_are_noticed_when_granted(direct: Api, control_plane: ControlPlane) -> None:
    user = Api.connect(control_plane.user_kubeconfig("namespaced"), user_agent="runtime-tests")
    put(direct, "a", "1", NAMESPACE)
    with pytest.raises(Forbidden, match='User "namespaced" cannot list'):
        user.list_pages(CONFIG_MAPS, NAMESPACE)
    with mirror(user, [NAMESPACE]) as seen:
        eventually(lambda: seen.reflector.forbidden)
        rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}
        meta = {"name": "reader", "namespace": NAMESPACE}
        direct.create(ROLES, NAMESPACE, {"apiVersion": ROLES.api_version, "kind": "Role", "metadata": meta, "rules": [rule]})
        binding = {
            "apiVersion": BINDINGS.api_version,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": ROLES.group, "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "User", "name": "namespaced", "apiGroup": ROLES.group}],
        }
        direct.create(BINDINGS, NAMESPACE, binding)
        seen.knows(a="1")
        eventually(lambda: not seen.reflector.forbidden)
    user.close()


def test_a_crd_that_comes_and_goes(direct: Api) -> None:
    crd: Json = {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {"name": f"{WIDGETS.plural}.{WIDGETS.group}"},
        "spec": {
            "group": WIDGETS.group,
            "scope": "Namespaced",
            "names": {"plural": WIDGETS.plural, "singular": "widget", "kind": WIDGETS.kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    }
    store, stop = Store(), threading.Event()
    reflector = Reflector(direct, WIDGETS, store=store, on_change=lambda old, new: None, clock=SystemClock(), namespaces=[NAMESPACE])
    thread = threading.Thread(target=reflector.run, args=(stop,), daemon=True)
    thread.start()
    eventually(lambda: reflector.absent)
    direct.create(CRDS, None, crd)
    assert reflector.synced.wait(60)
    assert not reflector.absent
    widget = {"apiVersion": WIDGETS.api_version, "kind": WIDGETS.kind, "metadata": {"name": "w"}}
    eventually(lambda: created(direct, widget))
    eventually(lambda: len(store) == 1)
    direct.delete(CRDS, None, crd["metadata"]["name"])
    eventually(lambda: reflector.absent, limit_seconds=60)
    stop.set()
    thread.join(20)


def created(api: Api, widget: Json) -> bool:
    try:
        api.create(WIDGETS, NAMESPACE, widget)
    except NotFound:
        return False
    return True
