"""The check of a place: what it refuses, with which words, and that it leaves nothing."""

import random
import time
from collections.abc import Callable

import pytest
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import InvalidStorage, StorageFailed
from finetune_trainer.storage.directory import Bytes
from finetune_trainer.storage.probe import check_writable


class Careless(MemoryStorage):
    """Ignores the condition, as s3rver 3.7.1 does."""

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        self.put(key, data)
        return True


class Racy(MemoryStorage):
    """Looks, and then writes: right for one writer after another, wrong now and then for writers at once, as s3mock 5.2.0 is."""

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if self.exists(key):
            return self.get(key) == data
        time.sleep(random.uniform(0, 0.002))
        self.put(key, data)
        return True


class RarelyRacy(Racy):
    """Right in all rounds but one of the last."""

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        return super().put_if_absent(key, data) if key.endswith("-11") else MemoryStorage.put_if_absent(self, key, data)


class Overwriting(MemoryStorage):
    """Tells the truth about who came first, and then lets the others overwrite all the same."""

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        won = super().put_if_absent(key, data)
        if not won and data != b"other":
            self.put(key, data)
        return won


class Stale(MemoryStorage):
    """A cache in front that answers with something older."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return b"yesterday"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Careless, r"ignores `If-None-Match: \*` \(it took a second object of one name\).*update the server or use another"),
        (Racy, r"told \d+ of 4 writers at once that they created one object.*are not atomic: update the server or use another"),
        (RarelyRacy, r"told \d+ of 4 writers at once that they created one object"),
        (Overwriting, "what was written is not what is read back"),
        (Stale, "what was written is not what is read back"),
    ],
)
def test_a_place_on_which_two_writers_could_both_win_a_claim_is_refused(kind: Callable[[], MemoryStorage], words: str) -> None:
    storage = kind()
    with pytest.raises(InvalidStorage, match=f"^spec.checkpoints.storage=memory: .*{words}"):
        check_writable(storage)
    assert storage.list() == [], "nothing is left"


def test_the_probes_go_also_when_a_writer_fails() -> None:
    class Full(MemoryStorage):
        def put_if_absent(self, key: str, data: Bytes) -> bool:
            if data == b"writer 3":
                raise StorageFailed("no room")
            return super().put_if_absent(key, data)

    storage = Full()
    with pytest.raises(StorageFailed, match="no room"):
        check_writable(storage)
    assert storage.list() == []


def test_a_right_place_passes_again_and_again() -> None:
    storage = MemoryStorage()
    for _ in range(20):
        check_writable(storage)
    assert storage.list() == []
