"""Storage in a dictionary, for tests that are about what is stored and not about how. It passes the same tests as the real ones."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from finetune_trainer.files.atomic import Bytes
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import MissingObject, Place, replaced


class MemoryStorage:
    """A Storage; `objects` may be looked at and damaged. Threads may share it: each call sees a dictionary that no other changes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.place = Place(url="memory")
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, key: str, data: Bytes) -> None:
        self.objects[key] = bytes(data)

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        self.objects[key] = b"".join(blocks)
        return len(self.objects[key])

    def put_file(self, key: str, path: Path) -> None:
        self.objects[key] = path.read_bytes()

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        with self._lock:
            return self.objects.setdefault(key, bytes(data)) == data

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        data = self.objects.get(key)
        if data is None:
            raise MissingObject(f"memory: reading {key} failed: there is no such object")
        return data[start:stop]

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        data = self.get(key)
        if version is not None and hashlib.sha256(data).hexdigest() != version:
            raise replaced(self.place, key)
        path.write_bytes(data)

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> Listing:
        return [(key, len(data)) for key, data in self._below(prefix)]

    def versions(self, prefix: str = "") -> Versions:
        return [(key, len(data), hashlib.sha256(data).hexdigest()) for key, data in self._below(prefix)]

    def _below(self, prefix: str) -> Iterable[tuple[str, bytes]]:
        return sorted((key, data) for key, data in self.objects.copy().items() if key.startswith(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        """Nothing is ever incomplete."""


class CountedStorage(MemoryStorage):
    """Counts the bytes of checkpoints' parts that are read; `before` is called first, with the key."""

    def __init__(self, before: Callable[[str], None] = lambda key: None) -> None:
        super().__init__()
        self.read, self.before = 0, before
        self._counting = threading.Lock()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self.before(key)
        data = super().get(key, start, stop)
        with self._counting:
            self.read += len(data) if key.endswith(".bin") else 0
        return data
