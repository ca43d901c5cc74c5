"""What storage is: objects by key.

The places are in `directory.py`, `s3.py`, `gcs.py` and `azure.py`; `places.py` opens the one that an address names.
Whoever reads or writes objects takes a `Storage` and does not know which it is.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from finetune_trainer.files.atomic import Bytes
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import Place


class Storage(Protocol):
    """Objects by key. Every method may raise InvalidStorage (settings) or StorageFailed (gave up in the middle)."""

    place: Place

    @property
    def url(self) -> str:
        """Where the keys begin, for messages."""
        ...

    def put(self, key: str, data: Bytes) -> None:
        """Write or replace an object of at most a few MiB."""
        ...

    def put_stream(self, key: str, blocks: Iterable[Bytes]) -> int:
        """Write or replace an object from blocks, a few of them in memory at a time; its size in bytes.

        Nothing appears under the key if `blocks` raises. A block must not change after it was handed over.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write or replace an object from a local file."""
        ...

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        """Create an object; False if there is one already with other bytes. Of two writers with different bytes one gets True."""
        ...

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) as a slice would give them. Raises MissingObject."""
        ...

    def get_file(self, key: str, path: Path, version: str | None = None) -> None:
        """Copy an object to a local file, which appears whole or not at all. Raises MissingObject.

        `version`, of `versions`: raises StorageFailed when the object is another by now.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object."""
        ...

    def list(self, prefix: str = "") -> Listing:
        """(key, size in bytes) of every object whose key starts with `prefix`, sorted."""
        ...

    def versions(self, prefix: str = "") -> Versions:
        """(key, size in bytes, version) of the same objects: a word of the storage's own, another one when the content is another.

        The same content written again may have another one, too.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in no promised order; keys without one are passed over."""
        ...

    def discard_incomplete(self, ours: Callable[[str], bool]) -> None:
        """Remove what killed writers left of objects that never appeared. `ours`: whether a key is the caller's to end an upload of."""
        ...
