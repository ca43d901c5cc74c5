"""Whether a place can be used as storage, found out by using it: before any GPU, and before hours of training rest on it.

In: a Storage. Out: nothing, or InvalidStorage in words. What is written here is named `.finetune-probe-...` and deleted again.
"""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from finetune_api.errors import InvalidStorage
from finetune_trainer.storage.errors import Unreachable, first_contact
from finetune_trainer.storage.protocol import Storage

# A server whose conditions race (s3mock 5.2.0) was found out in 15 of 15 checks.
_WRITERS = 4
_KEYS = 12


def check_readable(storage: Storage) -> None:
    """Raise InvalidStorage unless the storage answers and can be listed with these settings."""
    try:
        storage.list(f".finetune-probe-{uuid.uuid4().hex}")
    except Unreachable as error:
        raise first_contact(storage.place, error) from error


def check_writable(storage: Storage) -> None:
    """Create, read back, list and delete probe objects. Raises InvalidStorage, or StorageFailed if the storage is full.

    A server that ignores `If-None-Match: *`, or lets several of many writers at once win, is refused: on it two attempts could own one
    prefix.
    """
    key = f".finetune-probe-{uuid.uuid4().hex}"
    raced = [f"{key}-{number:02d}" for number in range(_KEYS)]
    try:
        storage.put(key, b"probe")
        try:
            _check_probe(storage, key)
            _check_race(storage, raced)
        finally:
            storage.delete([key, *raced])
    except Unreachable as error:
        raise first_contact(storage.place, error) from error


def _check_probe(storage: Storage, key: str) -> None:
    if storage.get(key) != b"probe" or (key, 5) not in storage.list(key):
        raise _unlike_written(storage)
    if storage.put_if_absent(key, b"other"):
        raise InvalidStorage(
            f"{_where(storage)}: {_server(storage)} ignores `If-None-Match: *` (it took a second object of one name), so two runs could "
            "overwrite each other's checkpoints; update the server or use another"
        )


def _check_race(storage: Storage, keys: list[str]) -> None:
    """Let several writers at once create each of `keys`. Raises InvalidStorage unless one of them wins each, and its bytes stay."""
    # Writers of one key start together. All keys are in flight, since a server may let each loser wait for seconds (SeaweedFS 4.48).
    together = {key: threading.Barrier(_WRITERS) for key in keys}

    def create(key: str, writer: int) -> bool:
        together[key].wait()
        return storage.put_if_absent(key, _bytes(writer))

    tries = [(key, writer) for key in keys for writer in range(_WRITERS)]
    with ThreadPoolExecutor(len(tries), thread_name_prefix="probe") as threads:
        # Not `map`, which takes back what hasn't begun when a writer fails: the others would wait for it.
        created = {one: threads.submit(create, *one) for one in tries}
    for key in keys:
        winners = [writer for writer in range(_WRITERS) if created[key, writer].result()]
        if len(winners) != 1:
            raise InvalidStorage(
                f"{_where(storage)}: {_server(storage)} told {len(winners)} of {_WRITERS} writers at once that they created one object, so "
                "two attempts could both own the checkpoints; its conditional writes (`If-None-Match: *`) are not atomic: update the "
                "server or use another"
            )
        if storage.get(key) != _bytes(winners[0]):
            raise _unlike_written(storage)


def _bytes(writer: int) -> bytes:
    return f"writer {writer}".encode()


def _unlike_written(storage: Storage) -> InvalidStorage:
    return InvalidStorage(f"{_where(storage)}: what was written is not what is read back; is a cache in front of {_server(storage)}?")


def _where(storage: Storage) -> str:
    return f"{storage.place.fields.storage}={storage.url}"


def _server(storage: Storage) -> str:
    return storage.place.endpoint or "the directory"
