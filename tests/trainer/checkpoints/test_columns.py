"""Nodes that restore read what they need and no more, whatever world size wrote it: a part lies in columns."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from finetune_trainer.checkpoints.columns import COLUMNS, Floats, Piece, border, fitting, in_columns
from finetune_trainer.checkpoints.manifest import CHUNK_BYTES, Manifest
from finetune_trainer.checkpoints.store import CheckpointStore

from ..memory_storage import CountedStorage, MemoryStorage

# 34 MB of a kind: chunks of 8 MiB hold several of these tensors, so tensor by tensor every node would read all of them.
SHAPES = {f"layers.{number}.{name}": shape for number in range(16) for name, shape in {"w": (512, 1024), "norm": (512,)}.items()}
BYTES = 4 * sum(map(math.prod, SHAPES.values()))
WORLDS = (1, 2, 4, 8, 16)


def values() -> dict[str, Floats]:
    random = np.random.default_rng(0)
    return {name: random.random(math.prod(shape), dtype=np.float32) for name, shape in SHAPES.items()}


def cut(name: str, rank: int, world: int) -> tuple[int, int]:
    """ZeRO-3's."""
    size = math.prod(SHAPES[name])
    each = -(-size // world)
    return min(rank * each, size), min((rank + 1) * each, size)


def pieces(full: dict[str, Floats], rank: int, world: int) -> Iterator[Piece]:
    for name, shape in SHAPES.items():
        start, stop = cut(name, rank, world)
        yield Piece(kind="master", name=name, shape=shape, start=start, stop=stop, data=full[name][start:stop])


def saved(storage: MemoryStorage, full: dict[str, Floats], world: int) -> tuple[CheckpointStore, Manifest]:
    one = CheckpointStore(storage, identity="a", job="fennel").claimed()
    return one, one.commit(1, [one.write_part(1, rank, pieces(full, rank, world), columns=COLUMNS) for rank in range(world)], {})


def read_by(one: CheckpointStore, checkpoint: Manifest, full: dict[str, Floats], rank: int, world: int) -> None:
    """One rank alone on its node reads its part, and it is right."""
    with one.reader(checkpoint) as reader:
        reader.expect([("master", name, *cut(name, rank, world)) for name in SHAPES])
        for name in SHAPES:
            start, stop = cut(name, rank, world)
            assert np.array_equal(reader.read("master", name, start, stop), full[name][start:stop])


@pytest.mark.parametrize("then", [*WORLDS, 3])
def test_every_node_reads_what_it_needs_and_no_more(then: int) -> None:
    storage, full = CountedStorage(), values()
    one, checkpoint = saved(storage, full, then)
    for now in WORLDS:
        storage.read = 0
        for rank in range(now):
            read_by(one, checkpoint, full, rank, now)
        assert storage.read == BYTES, f"{then} to {now}"


@pytest.mark.parametrize("then", [1, 2, 4])
def test_a_border_inside_a_column_costs_that_column(then: int) -> None:
    storage, full = CountedStorage(), values()
    one, checkpoint = saved(storage, full, then)
    storage.read = 0
    for rank in range(3):
        read_by(one, checkpoint, full, rank, 3)
    assert storage.read == BYTES * (COLUMNS + 2) // COLUMNS


def test_what_lies_in_columns_is_every_element_once() -> None:
    piece = Piece(kind="master", name="w", shape=(3, 7), start=2, stop=21, data=np.arange(2, 21, dtype=np.float32))
    found = [cut for column in in_columns([piece] * 100_000, 4) for cut in list(column)[:1]]
    assert [(one.start, one.stop) for one in found] == [(2, 6), (6, 11), (11, 16), (16, 21)]
    assert np.concatenate([one.data for one in found]).tolist() == list(range(2, 21))


@pytest.mark.parametrize("size", [1, 3, 257, 4096 * 4096])
@pytest.mark.parametrize("world", WORLDS)
def test_columns_begin_where_ranks_do(size: int, world: int) -> None:
    """Where the world size divides a tensor exactly, and where not, at most so many elements beside it as there are ranks."""
    each = -(-size // world)
    for rank in range(world):
        begins, column = min(rank * each, size), border(size, rank * COLUMNS // world, COLUMNS)
        assert 0 <= begins - column < world
        assert begins == column or size % world


def test_small_models_have_few_columns_and_empty_tensors_a_place() -> None:
    assert [fitting(COLUMNS, size) for size in (0, 2**20, 5 * 2**20, 40 * 2**20)] == [1, 1, 2, 16]
    nothing = Piece(kind="master", name="empty", shape=(0,), start=0, stop=0, data=np.zeros(0, dtype=np.float32))
    (column,) = in_columns([nothing], COLUMNS)
    assert list(column) == [nothing]


def test_who_has_no_memory_for_columns_gives_one_piece_at_a_time() -> None:
    """The same buffer for all of them."""
    storage, full = MemoryStorage(), values()
    buffer = np.empty(512 * 1024, dtype=np.float32)

    def given() -> Iterator[Piece]:
        for piece in pieces(full, 0, 1):
            data = buffer[: piece.data.size]
            data[:] = piece.data
            yield Piece(kind=piece.kind, name=piece.name, shape=piece.shape, start=piece.start, stop=piece.stop, data=data)

    one = CheckpointStore(storage, identity="a", job="fennel").claimed()
    told: list[int] = []
    part = one.write_part(1, 0, given(), gets_on=lambda: told.append(1))
    checkpoint = one.commit(1, [part], {})
    assert part.sections == (BYTES,)
    assert len(told) == len(part.digests) == -(-BYTES // CHUNK_BYTES)
    read_by(one, checkpoint, full, 0, 1)
