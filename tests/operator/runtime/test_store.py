"""The store: what is put in comes out, by name and by index."""

import pytest

from finetune_operator.runtime.api import Json
from finetune_operator.runtime.store import Store


def item(name: str, *owners: str, version: str = "1", namespace: str = "default") -> Json:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": version, "owners": list(owners)}}


@pytest.fixture
def store() -> Store:
    return Store(index=lambda item: item["metadata"]["owners"])


def names(found: list[Json]) -> list[str]:
    return [item["metadata"]["name"] for item in found]


def test_objects_are_found_by_name_and_by_every_value_of_the_index(store: Store) -> None:
    for each in (item("b", "x", "y"), item("a", "x"), item("c")):
        store.put(each)
    assert store.get("default", "a") == item("a", "x")
    assert store.get("other", "a") is None
    assert names(store.by_index("x")) == ["a", "b"]
    assert names(store.by_index("y")) == ["b"]
    assert store.by_index("z") == []
    assert sorted(names(list(store.all()))) == ["a", "b", "c"]
    assert len(store) == 3


def test_the_index_follows_changes_and_removals(store: Store) -> None:
    store.put(item("a", "x"))
    assert store.put(item("a", "y", version="2")) == item("a", "x")
    assert store.by_index("x") == []
    assert names(store.by_index("y")) == ["a"]
    assert store.version(("default", "a")) == "2"
    assert store.remove(("default", "a")) == item("a", "y", version="2")
    assert store.remove(("default", "a")) is None
    assert store.by_index("y") == []
    assert store._by_index == {}


def test_nobody_can_change_what_others_read(store: Store) -> None:
    store.put(item("a", "x"))
    found = store.get("default", "a")
    assert found is not None
    found["metadata"]["owners"].append("spoiled")
    store.by_index("x")[0]["metadata"].clear()
    assert store.get("default", "a") == item("a", "x")


def test_who_set_which_field_is_not_kept(store: Store) -> None:
    each = item("a")
    each["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(each)
    assert store.get("default", "a") == item("a")


def test_objects_without_a_namespace_and_names_of_one_namespace(store: Store) -> None:
    node = item("n")
    del node["metadata"]["namespace"]
    store.put(node)
    store.put(item("a", namespace="one"))
    assert store.get("", "n") == node
    assert store.names("one") == {("one", "a")}
    assert store.names() == {("", "n"), ("one", "a")}
