"""The objects that a reflector knows, with an index. Each is kept as its JSON: a fifth of the memory of dictionaries.

What is given out is decoded for the caller alone: no reader can change what another reads.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Name = tuple[str, str]  # namespace ("" when the kind has none), name


@dataclass(frozen=True, slots=True)
class Kept:
    """One object and what is asked of it without decoding it."""

    resource_version: str
    text: bytes
    index: tuple[str, ...]

    def decoded(self) -> Json:
        read: Json = json.loads(self.text)
        return read


def without_managed_fields(item: Json) -> Json:
    """`item` as worth keeping: who set which field is a third of its bytes, and nobody here asks."""
    item["metadata"].pop("managedFields", None)
    return item


def name_of(item: Json) -> Name:
    """Its key in a store."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Store:
    """Thread-safe; written by one reflector, read by everyone."""

    def __init__(
        self,
        index: Callable[[Json], Iterable[str]] = lambda item: (),
        trim: Callable[[Json], Json] = without_managed_fields,
    ) -> None:
        """`index`: the values under which by_index finds an object, such as its owner's uid. `trim` may change its argument."""
        self._index = index
        self._trim = trim
        self._lock = threading.Lock()
        self._kept: dict[Name, Kept] = {}
        self._by_index: dict[str, set[Name]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, namespace: str, name: str) -> Json | None:
        kept = self._kept.get((namespace, name))
        return kept.decoded() if kept else None

    def by_index(self, value: str) -> list[Json]:
        """The objects that `index` gave `value`, by namespace and name."""
        with self._lock:
            found = [self._kept[name] for name in sorted(self._by_index.get(value, ()))]
        return [kept.decoded() for kept in found]

    def all(self) -> Iterator[Json]:
        """Every object, decoded one after the other."""
        with self._lock:
            found = list(self._kept.values())
        return (kept.decoded() for kept in found)

    def names(self, namespace: str | None = None) -> set[Name]:
        """What is known, of one namespace or of all."""
        with self._lock:
            return {name for name in self._kept if namespace is None or name[0] == namespace}

    def version(self, name: Name) -> str | None:
        """The resourceVersion that is known of it."""
        kept = self._kept.get(name)
        return kept.resource_version if kept else None

    def put(self, item: Json) -> Json | None:
        """Keep `item`; what was kept of it before."""
        version = item["metadata"]["resourceVersion"]
        item = self._trim(item)
        text = json.dumps(item, separators=(",", ":")).encode()
        return self._swap(name_of(item), Kept(version, text, tuple(self._index(item))))

    def remove(self, name: Name) -> Json | None:
        """Forget it; what was kept of it."""
        return self._swap(name, None)

    def _swap(self, name: Name, new: Kept | None) -> Json | None:
        with self._lock:
            old = self._kept.pop(name, None)
            for value in old.index if old else ():
                names = self._by_index[value]
                names.discard(name)
                if not names:
                    del self._by_index[value]
            if new:
                self._kept[name] = new
                for value in new.index:
                    self._by_index.setdefault(value, set()).add(name)
        return old.decoded() if old else None
