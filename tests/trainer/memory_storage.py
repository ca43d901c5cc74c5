"""Storage in a dictionary, for tests that are about what is stored and not about how. It passes the same tests as the real ones."""

import threading
from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.directory import Bytes, Listing
from finetune_trainer.storage_errors import MissingObject, Place


class MemoryStorage:
    """A Storage; `objects` may be looked at and damaged."""

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
        if key not in self.objects:
            raise MissingObject(f"memory: reading {key} failed: there is no such object")
        return self.objects[key][start:stop]

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> Listing:
        return sorted((key, len(data)) for key, data in self.objects.items() if key.startswith(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    def discard_incomplete(self) -> None:
        """Nothing is ever incomplete."""
