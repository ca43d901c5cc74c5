"""Checkpoints: what is saved at one world size is restored at another, and no fault makes a checkpoint of what is not one."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
import threading
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET
from tests.trainer.memory_storage import CountedStorage, MemoryStorage

from finetune_api.errors import InvalidStorage, RunConflict, StorageFailed
from finetune_trainer.checkpoints.columns import Floats
from finetune_trainer.checkpoints.manifest import CHUNK_BYTES, Kind
from finetune_trainer.checkpoints.store import CheckpointStore, Claim, DamagedCheckpoint, Manifest, PartRecord, Piece
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

IDENTITY = "a" * 64
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
TOKEN = "0123456789abcdef0123456789abcdef"
SMALL = {"embedding": (7, 3), "bias": (5,), "scale": (), "empty": (0, 4)}
# The first is larger than a chunk, so that pieces cross chunks and chunks hold pieces of several tensors.
LARGE = {"matrix": (1500, 1501), "bias": (1501,), "vector": (2_100_000,)}

State = dict[tuple[Kind, str], Floats]


def store(storage: Storage) -> CheckpointStore:
    return CheckpointStore(storage, identity=IDENTITY, job="fennel")


def state(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    """Random full tensors of every kind, flattened."""
    random = np.random.default_rng(seed)
    return {
        (kind, name): random.standard_normal(int(np.prod(shape))).astype(np.float32) for kind in KINDS for name, shape in shapes.items()
    }


def partition(size: int, rank: int, world_size: int) -> tuple[int, int]:
    """ZeRO's cut: ceil(n / W) elements each, the last fewer."""
    each = -(-size // world_size)
    return min(rank * each, size), min((rank + 1) * each, size)


def pieces(full: State, shapes: dict[str, tuple[int, ...]], rank: int, world_size: int) -> Iterator[Piece]:
    """What one rank holds. The same buffer is used for every piece, as an engine may do."""
    buffer = np.empty(max(values.size for values in full.values()), dtype=np.float32)
    for (kind, name), values in full.items():
        start, stop = partition(values.size, rank, world_size)
        data = buffer[: stop - start]
        data[:] = values[start:stop]
        yield Piece(kind=kind, name=name, shape=shapes[name], start=start, stop=stop, data=data)


def save(
    to: CheckpointStore, step: int, *, seed: int | None = None, world_size: int = 2, shapes: dict[str, tuple[int, ...]] = SMALL
) -> Manifest:
    full = state(shapes, step if seed is None else seed)
    parts = [to.write_part(step, rank, pieces(full, shapes, rank, world_size)) for rank in range(world_size)]
    return to.commit(step, parts, {"position": step * 10})


def restored(from_store: CheckpointStore, checkpoint: Manifest, world_size: int, shapes: dict[str, tuple[int, ...]] = SMALL) -> State:
    """Full tensors, read as `world_size` ranks would."""
    full: State = {}
    for kind in KINDS:
        for name, shape in shapes.items():
            full[kind, name] = np.full(int(np.prod(shape)), np.nan, dtype=np.float32)
    for rank in range(world_size):
        with from_store.reader(checkpoint) as reader:
            for (kind, name), values in full.items():
                start, stop = partition(values.size, rank, world_size)
                values[start:stop] = reader.read(kind, name, start, stop)
    return full


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def resumed_step(storage: Storage) -> int | None:
    """The step that a new attempt would go on from: the newest candidate that can be read."""
    one = store(storage)
    for checkpoint in one.candidates():
        try:
            full = restored(one, checkpoint, 1)
        except DamagedCheckpoint:
            continue
        assert same(full, state(SMALL, checkpoint.step)), "a checkpoint that can be read is what was saved"
        return checkpoint.step
    return None


@pytest.fixture(params=["memory", "directory", "s3", "gcs", "azure"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory":
        return MemoryStorage()
    if request.param == "directory":
        return DirectoryStorage(tmp_path / "checkpoints")
    if request.param in {"gcs", "azure"}:
        one: Storage = request.getfixturevalue(request.param).open()
        return one
    server: S3Server = request.getfixturevalue("s3")
    credentials = S3Credentials(access_key=server.access_key, secret_key=server.secret_key)
    return open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", endpoint=server.endpoint, credentials=lambda: credentials)


@pytest.mark.parametrize(("saved_at", "restored_at"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 8), (8, 3), (5, 2)])
def test_any_world_size_restores(saved_at: int, restored_at: int) -> None:
    one = store(MemoryStorage()).claimed()
    save(one, 12, world_size=saved_at)
    checkpoint = one.newest_verified()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.world_size, checkpoint.extra) == (12, saved_at, {"position": 120})
    assert same(restored(one, checkpoint, restored_at), state(SMALL, 12))


def test_only_our_own_multipart_uploads_are_ended(s3: S3Server) -> None:
    """Not other programs' under the same prefix, nor a newer attempt's; what a killed preparation or an older attempt left is."""
    credentials = S3Credentials(access_key=s3.access_key, secret_key=s3.secret_key)
    prefix = uuid.uuid4().hex
    bucket = open_storage(f"s3://{BUCKET}/{prefix}", endpoint=s3.endpoint, credentials=lambda: credentials)
    store(bucket).claimed()
    left = {f"checkpoints/step-00000004/attempt-0001/rank-00000.{TOKEN}.bin", "prepared/0123456789abcdef/train.ids.bin"}
    others = {
        "backup.tar",
        "checkpoints/backup.tar",
        "checkpoints/step-00000004/attempt-0001/backup.tar",
        f"checkpoints/step-00000008/attempt-0002/rank-00000.{TOKEN}.bin",
        f"checkpoints/step-00000008/attempt-0003/rank-00000.{TOKEN}.bin",
        "prepared/backup.tar",
    }
    client = boto3.client(
        "s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key
    )
    for key in left | others:
        client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{key}")
    assert store(bucket).claimed().claim.number == 2
    found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}/")["Uploads"]
    assert {upload["Key"].removeprefix(f"{prefix}/") for upload in found} == others


def test_tensors_larger_than_chunks(storage: Storage) -> None:
    one = store(storage).claimed()
    checkpoint = save(one, 1, world_size=2, shapes=LARGE)
    for part in checkpoint.objects:
        assert len(part.digests) == len(part.bounds) - 1
        assert (part.bounds[0], part.bounds[-1]) == (0, part.size)
        assert all(0 < stop - start <= CHUNK_BYTES for start, stop in itertools.pairwise(part.bounds))
    assert len(checkpoint.objects[0].digests) > 2
    one.verify(checkpoint, deep=True)
    assert same(restored(one, checkpoint, 3, LARGE), state(LARGE, 1))


@pytest.mark.parametrize("seed", range(20))
def test_random_tensors_cuts_and_ranges(seed: int) -> None:
    """Any division into pieces, in any order and over any ranks; any range read."""
    random = np.random.default_rng(seed)
    shapes = {f"t{index}": tuple(int(n) for n in random.integers(1, 60, random.integers(0, 4))) for index in range(random.integers(1, 6))}
    full = state(shapes, seed)
    world_size = int(random.integers(1, 9))
    of_rank: list[list[Piece]] = [[] for _ in range(world_size)]
    for (kind, name), values in full.items():
        cuts = [0, *sorted(int(cut) for cut in random.integers(0, values.size + 1, random.integers(0, 6))), values.size]
        for start, stop in itertools.pairwise(cuts):
            one = Piece(kind=kind, name=name, shape=shapes[name], start=start, stop=stop, data=values[start:stop])
            of_rank[random.integers(world_size)].append(one)
    writer = store(MemoryStorage()).claimed()
    parts = []
    for rank, own in enumerate(of_rank):
        random.shuffle(own)
        parts.append(PartRecord.from_json(writer.write_part(1, rank, own).to_json()))
    with writer.reader(writer.commit(1, parts, {})) as reader:
        for (kind, name), values in full.items():
            for _ in range(5):
                start, stop = sorted(int(n) for n in random.integers(0, values.size + 1, 2))
                assert np.array_equal(reader.read(kind, name, start, stop), values[start:stop])


def test_the_newest_is_taken_and_any_step_can_be_opened(storage: Storage) -> None:
    one = store(storage).claimed()
    assert one.newest_verified() is None
    for step in (2, 10, 9):
        save(one, step)
    assert [checkpoint.step for checkpoint in one.candidates()] == [10, 9, 2]
    assert one.open(9).step == 9
    with pytest.raises(InvalidStorage, match=r"no checkpoint of step 5; there are \[2, 9, 10\]"):
        one.open(5)


def test_a_later_attempt_at_the_same_step_is_taken() -> None:
    storage = MemoryStorage()
    save(store(storage).claimed(), 4, seed=1)
    save(store(storage).claimed(), 4, seed=2)
    newest = store(storage).newest_verified()
    assert newest is not None
    assert newest.attempt == 2
    assert same(restored(store(storage), newest, 1), state(SMALL, 2))
    assert store(storage).open(4, attempt=1).attempt == 1


def test_what_is_not_in_the_checkpoint_cannot_be_read() -> None:
    one = store(MemoryStorage()).claimed()
    with one.reader(save(one, 1)) as reader:
        for name, start, stop in (("other", 0, 1), ("bias", 0, 6), ("bias", 3, 2), ("bias", -1, 2)):
            with pytest.raises(InvalidStorage, match=f"no elements {start} to {stop} of master '{name}'"):
                reader.read("master", name, start, stop)


# --- faults: the older checkpoint is taken ----------------------------------------------------------------------------------


def alter(storage: MemoryStorage, key: str) -> None:
    data = bytearray(storage.objects[key])
    data[len(data) // 2] ^= 1
    storage.put(key, data)


def truncate(storage: MemoryStorage, key: str) -> None:
    storage.put(key, storage.objects[key][:-1])


def remove(storage: MemoryStorage, key: str) -> None:
    storage.delete([key])


@pytest.mark.parametrize("damage", [alter, truncate, remove])
@pytest.mark.parametrize("name", [r"rank-00000\..+\.bin", r"rank-00001\..+\.bin", r"manifest\.json"])
def test_damage_is_seen_and_the_older_checkpoint_taken(damage: Callable[[MemoryStorage, str], None], name: str) -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    save(one, 1)
    save(one, 2)
    assert resumed_step(storage) == 2
    (key,) = (key for key in storage.objects if re.fullmatch(rf"checkpoints/step-00000002/attempt-0001/{name}", key))
    damage(storage, key)
    assert resumed_step(storage) == 1


def test_damage_names_object_bytes_and_step() -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    checkpoint = save(one, 2)
    alter(storage, checkpoint.objects[1].key)
    one.verify(checkpoint)
    with pytest.raises(DamagedCheckpoint, match=r"memory: step 2 is damaged: .*rank-00001\..+\.bin differs in bytes \d+ to \d+") as caught:
        one.verify(checkpoint, deep=True)
    assert isinstance(caught.value, StorageFailed)
    assert caught.value.reason == "StorageFailed"
    heard: list[str] = []
    truncate(storage, checkpoint.objects[0].key)
    assert one.newest_verified(heard.append) is None
    assert len(heard) == 1
    assert "rank-00000." in heard[0]


def test_another_runs_manifest_is_none_of_ours() -> None:
    storage = MemoryStorage()
    save(store(storage).claimed(), 2)
    other = CheckpointStore(storage, identity="b" * 64, job="dill")
    assert other.newest_verified() is None
    with pytest.raises(RunConflict, match="belongs to job 'fennel'"):
        other.claimed()


def test_a_part_that_vanished_is_not_committed() -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    parts = [one.write_part(1, rank, pieces(state(SMALL, 1), SMALL, rank, 2)) for rank in range(2)]
    storage.delete([parts[1].key])
    with pytest.raises(StorageFailed, match=r"rank-00001\..+\.bin has no bytes instead of"):
        one.commit(1, parts, {})
    assert one.newest_verified() is None


class Crash(BaseException):
    """The process is gone."""


class Crashing(MemoryStorage):
    """Goes away with the n-th call that changes something; before it, or after it with nobody told."""

    def __init__(self, objects: dict[str, bytes], calls: int, *, after: bool) -> None:
        super().__init__()
        self.objects, self._calls, self._after = objects, calls, after

    def _count(self, change: Callable[[], object]) -> object:
        self._calls -= 1
        if self._calls == 0:
            if self._after:
                change()
            raise Crash
        return change()

    def put_stream(self, key: str, blocks: Iterable[bytes | bytearray | memoryview]) -> int:
        return int(str(self._count(lambda: super(Crashing, self).put_stream(key, blocks))))

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        return bool(self._count(lambda: super(Crashing, self).put_if_absent(key, data)))

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):  # a store deletes one after the other, too
            self._count(lambda key=key: super(Crashing, self).delete([key]))  # type: ignore[misc]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_a_whole_checkpoint(after: bool) -> None:
    """Save, commit and prune with keep 1, ended at each call in turn: what is resumed from is the old step or the new one."""
    seen = []
    for calls in range(1, 40):
        objects: dict[str, bytes] = {}
        one = store(MemoryStorageOf(objects)).claimed()
        save(one, 1)
        crashing = Crashing(objects, calls, after=after)
        try:
            two = store(crashing).claimed()
            save(two, 2)
            two.prune(keep=1)
        except Crash:
            seen.append(resumed_step(MemoryStorageOf(objects)))
            # The next attempt goes on as if nothing had been, and leaves no rubbish.
            three = store(MemoryStorageOf(objects)).claimed()
            save(three, 3)
            three.prune(keep=1)
            assert {key.split("/")[1] for key in objects if key.startswith("checkpoints/")} == {"step-00000003"}
        else:
            break
    assert len(seen) > 5
    assert set(seen) == {1, 2}
    assert seen == [1] * seen.count(1) + [2] * seen.count(2)
    assert resumed_step(MemoryStorageOf(objects)) == 2


class MemoryStorageOf(MemoryStorage):
    """The same objects, seen by another process."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects = objects


# --- two writers ------------------------------------------------------------------------------------------------------------


def test_an_old_claim_neither_commits_nor_deletes(storage: Storage) -> None:
    old = store(storage).claimed()
    save(old, 1)
    save(old, 2)
    parts = [old.write_part(3, rank, pieces(state(SMALL, 3), SMALL, rank, 2)) for rank in range(2)]
    new = store(storage).claimed()
    with pytest.raises(RunConflict, match="attempt 1 of job 'fennel' was replaced by attempt 2"):
        old.commit(3, parts, {})
    with pytest.raises(RunConflict, match="replaced by attempt 2"):
        old.prune(keep=1)
    assert [one.step for one in new.candidates()] == [2, 1]
    save(new, 3)
    assert [(one.step, one.attempt) for one in new.candidates()] == [(3, 2), (2, 1), (1, 1)]


def test_two_writers_at_the_same_steps_leave_whole_checkpoints() -> None:
    storage = MemoryStorage()
    conflicts = []

    def run() -> None:
        try:
            one = store(storage).claimed()
            for step in range(1, 8):
                save(one, step)
                one.prune(keep=2)
        except RunConflict as error:
            conflicts.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert resumed_step(storage) == 7
    assert len(conflicts) <= 2


def test_the_same_step_twice_is_refused() -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    save(one, 1)
    committed = dict(storage.objects)
    with pytest.raises(RunConflict, match="saves step 1 a second time"):
        save(one, 1, world_size=1)
    assert storage.objects == committed, "refused before a part of the committed step is overwritten"


class Forgetful(MemoryStorage):
    """Creates an object, and the answer is lost: once."""

    forgets = False

    def put_stream(self, key: str, blocks: Iterable[bytes | bytearray | memoryview]) -> int:
        assert key not in self.objects, "what a committed checkpoint consists of is not written again"
        return super().put_stream(key, blocks)

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        created = super().put_if_absent(key, data)
        if self.forgets and key.endswith("manifest.json"):
            self.forgets = False
            raise StorageFailed(f"creating {key} failed: no answer")
        return created


def test_a_commit_whose_answer_was_lost_is_recognised() -> None:
    """The last checkpoint of a run is saved again when it seems to have failed: what landed is it, whatever this try took longer."""
    storage = Forgetful()
    one = store(storage).claimed()
    full, storage.forgets = state(SMALL, 1), True

    def saved(seconds: float, full: State = full) -> Manifest:
        parts = [one.write_part(1, rank, pieces(full, SMALL, rank, 2)) for rank in range(2)]
        return one.commit(1, parts, {"seconds": seconds})

    with pytest.raises(StorageFailed, match="no answer"):
        saved(1.0)
    landed = saved(2.0)
    assert landed.extra == {"seconds": 1.0}
    assert same(restored(one, landed, 1), full)
    with pytest.raises(RunConflict, match="saves step 1 a second time"):
        saved(3.0, state(SMALL, 2))


def test_ranks_write_under_the_claim_they_were_told() -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    told = CheckpointStore(storage, identity=IDENTITY, job="fennel", claim=Claim.from_json(one.claim.to_json()))
    key = told.write_part(1, 1, pieces(state(SMALL, 1), SMALL, 1, 2)).key
    assert key == f"checkpoints/step-00000001/attempt-0001/rank-00001.{one.claim.token}.bin"


def with_number_of(one: CheckpointStore) -> CheckpointStore:
    """Another attempt that was told it had won the same claim, as a server without atomic conditions does: what it wrote stands there."""
    rival = replace(one.claim, token="0" * 32, host="other")
    one.storage.put(rival.key, json.dumps(rival.to_json(), sort_keys=True).encode())
    return CheckpointStore(one.storage, identity=IDENTITY, job="fennel", claim=rival)


@pytest.mark.parametrize("written", [0, 1, 2], ids="{} parts of the loser".format)
def test_of_two_attempts_with_one_claim_number_the_loser_overwrites_nothing(storage: Storage, written: int) -> None:
    """Made by hand: wherever the loser is when the winner's claim replaces its own, the winner's committed step stays as it was."""
    loser = store(storage).claimed()
    for rank in range(written):
        loser.write_part(3, rank, pieces(state(SMALL, 99), SMALL, rank, 2))
    winner = with_number_of(loser)
    save(winner, 3)
    committed = {key: storage.get(key) for key, _ in storage.list("checkpoints/")}
    for rank in range(2):
        with pytest.raises(RunConflict, match="attempt 1 of job 'fennel' was replaced by attempt 1, started"):
            loser.write_part(3, rank, pieces(state(SMALL, 99), SMALL, rank, 2))
    assert {key: storage.get(key) for key, _ in storage.list("checkpoints/")} == committed
    winner.verify(winner.open(3), deep=True)
    assert same(restored(winner, winner.open(3), 1), state(SMALL, 3))


def test_a_loser_that_wrote_its_parts_learns_it_before_the_commit() -> None:
    loser = store(MemoryStorage()).claimed()
    parts = [loser.write_part(3, rank, pieces(state(SMALL, 99), SMALL, rank, 2)) for rank in range(2)]
    winner = with_number_of(loser)
    with pytest.raises(RunConflict, match="was replaced by attempt 1"):
        loser.commit(3, parts, {})
    assert winner.newest_verified() is None
    save(winner, 3)
    assert same(restored(winner, winner.open(3), 2), state(SMALL, 3))


def test_a_loser_in_the_middle_of_a_part_leaves_the_winners_part_alone() -> None:
    """It has read its claim back, begins to write, and the winner commits meanwhile."""
    loser = store(MemoryStorage()).claimed()

    def slowly() -> Iterator[Piece]:
        save(with_number_of(loser), 3)
        yield from pieces(state(SMALL, 99), SMALL, 0, 2)

    loser.write_part(3, 0, slowly())
    one = store(loser.storage)
    assert same(restored(one, one.open(3), 1), state(SMALL, 3))


def test_a_store_without_a_claim_only_reads() -> None:
    with pytest.raises(AssertionError, match="only reads"):
        store(MemoryStorage()).write_part(1, 0, [])


# --- pruning ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "protect", "left"),
    [(0, [], [5, 4, 3, 2, 1]), (1, [], [5]), (2, [], [5, 4]), (2, [1], [5, 4, 1]), (9, [], [5, 4, 3, 2, 1]), (1, [5, 77], [5])],
)
def test_prune_keeps_the_newest_and_the_protected(storage: Storage, keep: int, protect: list[int], left: list[int]) -> None:
    one = store(storage).claimed()
    for step in range(1, 6):
        save(one, step, world_size=1)
    assert one.prune(keep, protect) == sorted({1, 2, 3, 4, 5} - set(left))
    assert [checkpoint.step for checkpoint in one.candidates()] == left
    assert len(storage.list("checkpoints/")) == 2 * len(left)
    assert one.prune(keep, protect) == []


def test_prune_takes_rubbish_but_nothing_that_is_being_written() -> None:
    storage = MemoryStorage()
    old = store(storage).claimed()
    save(old, 1)
    old.write_part(9, 0, pieces(state(SMALL, 9), SMALL, 0, 2))  # died before the commit
    new = store(storage).claimed()
    new.write_part(2, 0, pieces(state(SMALL, 2), SMALL, 0, 2))  # failed
    save(new, 3)
    under_way = new.write_part(4, 0, pieces(state(SMALL, 4), SMALL, 0, 2)).key
    later = "checkpoints/step-00000002/attempt-0003/rank-00000.0123.bin"  # of an attempt that this one has not heard of
    storage.put(later, b"x")
    damaged = save(new, 5)
    remove(storage, damaged.objects[0].key)
    new.prune(keep=0)
    folders = {key.rpartition("/")[0] for key in storage.objects if key.startswith("checkpoints/")}
    assert folders == {
        "checkpoints/step-00000001/attempt-0001",
        "checkpoints/step-00000003/attempt-0002",
        under_way.rpartition("/")[0],
        later.rpartition("/")[0],
        "checkpoints/step-00000005/attempt-0002",
    }


def test_prune_counts_whole_checkpoints_only() -> None:
    storage = MemoryStorage()
    one = store(storage).claimed()
    for step in (1, 2, 3):
        save(one, step)
    truncate(storage, one.open(3).objects[0].key)
    one.prune(keep=1)
    assert [checkpoint.step for checkpoint in one.candidates()] == [2]


def test_a_checkpoint_that_was_passed_over_pushes_no_whole_one_out() -> None:
    """Its sizes are right and its content is not: the attempt that saw it went on from an older one."""
    storage = MemoryStorage()
    old = store(storage).claimed()
    save(old, 2)
    alter(storage, save(old, 8).objects[0].key)
    assert resumed_step(storage) == 2
    new = store(storage).claimed()
    save(new, 5)
    assert new.prune(keep=1) == [2, 8]
    assert resumed_step(storage) == 5
    save(new, 8)
    assert new.prune(keep=1) == [5]
    assert resumed_step(storage) == 8


def test_a_protected_step_is_kept_whoever_wrote_it() -> None:
    storage = MemoryStorage()
    save(store(storage).claimed(), 8)
    new = store(storage).claimed()
    save(new, 5)
    assert new.prune(keep=1, protect=[8]) == []


# --- memory -----------------------------------------------------------------------------------------------------------------


def test_a_few_chunks_are_in_memory(tmp_path: Path) -> None:
    """160 MiB are written and read through much less. NumPy and bytes are both counted by tracemalloc."""
    size = 20 * 2**21
    data = np.ones(2**21, dtype=np.float32)  # one chunk
    one = store(DirectoryStorage(tmp_path)).claimed()
    given = (Piece(kind="master", name="w", shape=(size,), start=at, stop=at + data.size, data=data) for at in range(0, size, data.size))
    tracemalloc.start()
    try:
        checkpoint = one.commit(1, [one.write_part(1, 0, given)], {})
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with one.reader(checkpoint) as reader:
            for at in range(0, size, 2**20):
                reader.read("master", "w", at, at + 2**20)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 4 * CHUNK_BYTES
    assert read < 16 * CHUNK_BYTES


# --- a disk without room ----------------------------------------------------------------------------------------------------

# A limit on the size of files stands for it, in a process of its own.
_LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from finetune_api.errors import StorageFailed
from finetune_trainer.checkpoints.store import CheckpointStore, Piece
from finetune_trainer.storage.directory import DirectoryStorage
store = CheckpointStore(DirectoryStorage(Path(sys.argv[1])), identity="a" * 64, job="fennel").claimed()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
data = np.ones(1_000_000, dtype=np.float32)
try:
    store.write_part(2, 0, [Piece(kind="master", name="w", shape=data.shape, start=0, stop=data.size, data=data)])
except StorageFailed as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "checkpoints")
    save(store(storage).claimed(), 1)
    before = storage.list("checkpoints/")
    found = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "checkpoints")],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "no room (file size limit reached) while writing checkpoints/step-00000002" in found.stdout
    assert "what was saved before is intact" in found.stdout
    assert storage.list("checkpoints/") == before
    assert resumed_step(storage) == 1


# 24 MiB of each kind: more than a chunk for each of two ranks, less than one for each of sixteen.
BLOCKS = {f"blocks.{number}.weight": (1024, 256) for number in range(24)} | {f"blocks.{number}.bias": (257,) for number in range(24)}


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_an_export_reads_the_masters_once_and_nothing_else(world_size: int) -> None:
    storage = CountedStorage()
    one = store(storage).claimed()
    full = state(BLOCKS, 5)
    parts = [one.write_part(5, rank, pieces(full, BLOCKS, rank, world_size)) for rank in range(world_size)]
    checkpoint = one.commit(5, parts, {})
    ranges = [("master", name, 0, int(np.prod(shape))) for name, shape in BLOCKS.items()]
    with one.reader(checkpoint) as reader:
        reader.expect(ranges)
        for kind, name, start, stop in ranges:
            assert np.array_equal(reader.read(kind, name, start, stop), full[kind, name])
    assert storage.read == sum(full["master", name].nbytes for name in BLOCKS)


@pytest.mark.parametrize(("saved_at", "restored_at", "most"), [(1, 1, 1.0), (4, 4, 1.0), (4, 2, 1.4), (3, 2, 1.75), (2, 4, 2.3)])
def test_a_restore_fetches_no_chunk_twice_on_a_rank(saved_at: int, restored_at: int, most: float) -> None:
    """Ranks of different nodes that need parts of one chunk each read it: so a larger run reads more, and a smaller one at the seams."""
    storage = CountedStorage()
    one = store(storage).claimed()
    full = state(BLOCKS, 5)
    checkpoint = one.commit(5, [one.write_part(5, rank, pieces(full, BLOCKS, rank, saved_at)) for rank in range(saved_at)], {})
    for rank in range(restored_at):
        wanted = [(kind, name, *partition(full[kind, name].size, rank, restored_at)) for name in BLOCKS for kind in KINDS]
        with one.reader(checkpoint) as reader:
            reader.expect(wanted)
            for kind, name, start, stop in wanted:
                assert np.array_equal(reader.read(kind, name, start, stop), full[kind, name][start:stop])
            assert not reader._chunks, "what is no longer needed is forgotten"
    assert storage.read <= most * sum(values.nbytes for values in full.values())


def test_what_was_expected_and_is_not_read_in_that_order_is_right_all_the_same() -> None:
    one = store(MemoryStorage()).claimed()
    checkpoint = save(one, 3, world_size=3, shapes=BLOCKS)
    full = state(BLOCKS, 3)
    ranges = [("master", name, 0, int(np.prod(shape))) for name, shape in BLOCKS.items()]
    with one.reader(checkpoint) as reader:
        reader.expect([*ranges, ("master", "not there", 0, 4)])
        for kind, name, start, stop in [*reversed(ranges), *ranges[:3]]:
            assert np.array_equal(reader.read(kind, name, start, stop), full[kind, name])


def test_a_manifest_is_read_once_by_whoever_prunes() -> None:
    storage = MemoryStorage()
    one, asked = store(storage).claimed(), list[str]()
    get = storage.get

    def counted(key: str, start: int = 0, stop: int | None = None) -> bytes:
        asked.append(key)
        return get(key, start, stop)

    storage.get = counted  # type: ignore[method-assign]
    for step in range(1, 6):
        save(one, step)
        one.prune(3)
    read = [key for key in asked if key.endswith("manifest.json")]
    assert len(read) == len({*read}) == 5
    assert [checkpoint.step for checkpoint in one.complete()] == [5, 4, 3]
    storage.delete([one.complete()[0].objects[0].key])
    assert [checkpoint.step for checkpoint in one.complete()] == [4, 3]


@pytest.mark.parametrize(
    "changes", [{"attempt": None}, {"step": "3"}, {"objects": None}, {"objects": [["k", "1", [], []]]}, {"tensors": [{}]}, {"identity": 7}]
)
def test_a_manifest_whose_digest_is_right_and_whose_content_is_not_ours_is_passed_over(changes: dict[str, object]) -> None:
    """Whoever may write to the storage may sign anything."""
    storage = MemoryStorage()
    one = store(storage).claimed()
    save(one, 1)
    newest = save(one, 2)
    body = json.loads(newest.to_bytes())["body"] | changes
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    storage.put(newest.key, json.dumps({"format": 2, "sha256": hashlib.sha256(text).hexdigest(), "body": body}).encode())
    told: list[str] = []
    assert [found.step for found in one.candidates(told.append)] == [1]
    assert newest.key in told[0]


def test_a_manifest_that_is_nested_too_deeply_is_passed_over() -> None:
    storage = MemoryStorage()
    newest = save(store(storage).claimed(), 2)
    storage.put(newest.key, b"[" * 100_000)
    assert list(store(storage).candidates()) == []
