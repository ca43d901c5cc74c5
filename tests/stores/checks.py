"""What checkpoints need of object storage, one check a function, run against each server: (what it is, how it went)."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import boto3
import numpy as np
from botocore.config import Config
from tests.stores.servers import BUCKET, Store

from finetune_api.errors import InvalidStorage
from finetune_trainer.checkpoints.store import CheckpointStore, DamagedCheckpoint, Manifest, Piece
from finetune_trainer.storage.azure import AzureCredentials
from finetune_trainer.storage.connection import Limits
from finetune_trainer.storage.probe import check_writable
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

ROUNDS = 6
WRITERS = 16
QUICK = Limits(connect_seconds=10, read_seconds=30, attempts=2)
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Failed(Exception):
    """A check that went otherwise than it should; the words go into the table."""

    words: str


def refused_or_not(store: Store) -> str:
    """Whether the check before any GPU takes the server."""
    try:
        check_writable(store.open(limits=QUICK))
    except InvalidStorage as error:
        return f"refused: {str(error).split(': ', 1)[1].partition(';')[0]}"
    return "taken"


def winners(store: Store) -> str:
    """Of many writers of one key at once one is told that it created it, each time."""
    storage = store.open(limits=QUICK)
    most = 0
    for number in range(ROUNDS):
        together = threading.Barrier(WRITERS)

        def create(writer: int, key: str = f"claims/{number}", together: threading.Barrier = together) -> bool:
            together.wait()
            return storage.put_if_absent(key, b"writer %d" % writer)

        with ThreadPoolExecutor(WRITERS) as threads:
            most = max(most, list(threads.map(create, range(WRITERS))).count(True))
    if most != 1:
        raise Failed(f"up to {most} of {WRITERS}")
    return f"1 of {WRITERS} ({ROUNDS} rounds)"


def saved_and_restored(store: Store) -> str:
    """A checkpoint of two ranks comes back; one that is damaged is passed over; retention keeps the newest."""
    storage = store.open(limits=QUICK)
    one = _checkpoints(storage)
    for step in (9, 10, 100):
        _save(one, step)
    if not np.array_equal(_restored(one, one.open(100)), _values(100)):
        raise Failed("other values came back")
    storage.put(one.open(100).objects[0].key, b"cut off")
    if [found.step for found in one.candidates()] != [10, 9]:
        raise Failed("a damaged checkpoint was taken")
    one.prune(keep=1)
    if [found.step for found in one.candidates()] != [10]:
        raise Failed("others than the newest were kept")
    return "right"


def abandoned(store: Store) -> str:
    """What a writer left that was killed in the middle of a large object is no object, and can be given up."""
    storage = store.open(limits=QUICK)

    def blocks() -> Iterator[bytes]:
        yield from [bytes(8 * MIB)] * 3
        raise ZeroDivisionError

    try:
        storage.put_stream("large", blocks())
    except ZeroDivisionError:
        storage.discard_incomplete(lambda key: True)
    if storage.list():
        raise Failed("something is listed")
    return "right"


def listed(store: Store) -> str:
    """2,500 keys in the order of their code points, whatever the server's is."""
    storage = store.open(limits=QUICK)
    names = sorted([f"many/{index:04d}" for index in range(2494)] + ["many-a", "many0", "\uff21", "\U0001f33f", "\u00e4", "many/0/deep"])
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: storage.put(key, b"x"), names))
    if [key for key, _ in storage.list()] != names:
        raise Failed("other keys, or in another order")
    storage.delete(names)
    if storage.list():
        raise Failed("not all were deleted")
    return "right"


def wrong_settings(store: Store) -> str:
    """A missing bucket, a wrong key and TLS that is not spoken are refused, each naming its field."""
    credentials = store.credentials
    if isinstance(credentials, S3Credentials):
        credentials = replace(credentials, access_key="nobody")
    elif isinstance(credentials, AzureCredentials):
        credentials = replace(credentials, key="d3Jvbmc=")
    tried: list[tuple[Storage, str]] = [(store.open(bucket="nobody-made-this", limits=QUICK), "create it or correct the name")]
    if credentials is not None and not store.name.startswith("moto"):  # moto takes any key
        tried.append((store.open(credentials=lambda: credentials, limits=QUICK), "spec.checkpoints.credentialsSecret"))
    if store.scheme != "gs":
        tried.append((store.open(endpoint=store.endpoint.replace("http:", "https:"), limits=QUICK), "doesn't speak TLS"))
    for storage, words in tried:
        try:
            check_writable(storage)
        except InvalidStorage as error:
            if words not in str(error):
                raise Failed(str(error)) from error
        else:
            raise Failed(f"taken, where {words!r} should be told")
    return "right"


def speed(store: Store) -> str:
    """MB/s while a part of 64 MiB is saved, and its ratio to the same bytes by plain boto3, parts in parallel; the better of three."""
    if not isinstance(store.credentials, S3Credentials):
        return "-"
    data = np.random.default_rng(0).integers(0, 255, 64 * MIB, dtype=np.uint8).tobytes()
    ours, plain = 0.0, 0.0
    client = _plain_client(store, store.credentials)
    for _ in range(3):
        storage = store.open()
        began = time.monotonic()
        one = _checkpoints(storage)
        values = np.frombuffer(data, dtype=np.float32)
        began = time.monotonic()
        one.write_part(1, 0, [Piece(kind="master", name="w", shape=(values.size,), start=0, stop=values.size, data=values)])
        ours = max(ours, len(data) / 1e6 / (time.monotonic() - began))
        began = time.monotonic()
        _plain_upload(client, data)
        plain = max(plain, len(data) / 1e6 / (time.monotonic() - began))
    client.close()
    return f"{ours:.0f} ({ours / plain:.2f})"


CHECKS: Mapping[str, Callable[[Store], str]] = {
    "check before any GPU": refused_or_not,
    "winners of one key": winners,
    "save, restore, damage, retention": saved_and_restored,
    "abandoned uploads": abandoned,
    "order of 2,500 keys": listed,
    "wrong bucket, key, TLS": wrong_settings,
    "MB/s while saving (of plain boto3)": speed,
}


def outcome(check: Callable[[Store], str], store: Store) -> str:
    """How a check went, also where it failed."""
    try:
        return check(store)
    except Failed as failed:
        return f"WRONG: {failed.words}"


def _checkpoints(storage: Storage) -> CheckpointStore:
    return CheckpointStore(storage, identity="a" * 64, job="stores").claimed()


def _values(step: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.random.default_rng(step).standard_normal(2_500_000).astype(np.float32)


def _save(one: CheckpointStore, step: int) -> None:
    values, half = _values(step), 1_250_000
    parts = [
        one.write_part(
            step,
            rank,
            [
                Piece(kind=kind, name="w", shape=values.shape, start=start, stop=start + half, data=values[start : start + half])
                for kind in ("master", "exp_avg", "exp_avg_sq")
            ],
        )
        for rank, start in enumerate((0, half))
    ]
    one.commit(step, parts, {})


def _restored(one: CheckpointStore, checkpoint: Manifest) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    with one.reader(checkpoint) as reader:
        return reader.read("exp_avg", "w", 0, 2_500_000)


def _plain_client(store: Store, keys: S3Credentials) -> "boto3.client":
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(s3={"addressing_style": "path"}, proxies={}, max_pool_connections=16, request_checksum_calculation="when_required"),
    )


def _plain_upload(client: "boto3.client", data: bytes) -> None:
    """Parts of 8 MiB, four at a time."""
    target = {"Bucket": BUCKET, "Key": "plain"}
    upload = client.create_multipart_upload(**target)["UploadId"]

    def send(number: int) -> dict[str, object]:
        body = data[(number - 1) * 8 * MIB : number * 8 * MIB]
        return {"PartNumber": number, "ETag": client.upload_part(**target, UploadId=upload, PartNumber=number, Body=body)["ETag"]}

    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(send, range(1, len(data) // (8 * MIB) + 1)))
    client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})


__all__ = ["CHECKS", "DamagedCheckpoint", "Failed", "outcome"]
