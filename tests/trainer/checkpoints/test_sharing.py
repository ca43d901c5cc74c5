"""Ranks of one node, as threads, read a checkpoint together: each byte once, whatever world size wrote it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.errors import StorageFailed
from finetune_trainer.checkpoints.manifest import Kind, Manifest
from finetune_trainer.checkpoints.reader import Floats, Range, Reader
from finetune_trainer.checkpoints.sharing import shared_folder
from finetune_trainer.checkpoints.store import CheckpointStore, Piece
from finetune_trainer.files.locks import folder_in_use
from finetune_trainer.storage.errors import DamagedCheckpoint

from ..memory_storage import CountedStorage, MemoryStorage

Shapes = dict[str, tuple[int, ...]]
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
WORLDS = (1, 2, 4, 8, 16)


def llama(hidden: int = 192, layers: int = 4, vocabulary: int = 4001) -> Shapes:
    """Names and shapes of a Llama with fewer heads for keys, tied embeddings, and a vocabulary that no world size divides."""
    square, keys, norm = (hidden, hidden), (hidden // 3, hidden), (hidden,)
    one: Shapes = {
        **{f"self_attn.{name}_proj.weight": shape for name, shape in zip("qkvo", (square, keys, keys, square), strict=True)},
        **{f"mlp.{name}_proj.weight": (4 * hidden, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, 4 * hidden),
        "input_layernorm.weight": norm,
        "post_attention_layernorm.weight": norm,
    }
    blocks = {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in one.items()}
    return {"model.embed_tokens.weight": (vocabulary, hidden), **blocks, "model.norm.weight": (hidden,)}


def gpt_bigcode(hidden: int = 200, layers: int = 4, vocabulary: int = 4001, head: int = 50) -> Shapes:
    """Of a GPTBigCode: one head of keys and values, and biases everywhere."""
    matrices: Shapes = {
        "attn.c_attn": (hidden + 2 * head, hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (4 * hidden, hidden),
        "mlp.c_proj": (hidden, 4 * hidden),
    }
    norms: Shapes = {f"ln_{number}.{name}": (hidden,) for number in (1, 2) for name in ("weight", "bias")}
    one = (
        norms
        | {f"{name}.weight": shape for name, shape in matrices.items()}
        | {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    )
    blocks = {f"transformer.h.{layer}.{name}": shape for layer in range(layers) for name, shape in one.items()}
    return {"transformer.wte.weight": (vocabulary, hidden), "transformer.wpe.weight": (1024, hidden), **blocks}


# A matrix of more than a chunk for each of two ranks, and tensors of few bytes.
WIDE: Shapes = {"bias": (1501,), "matrix": (3000, 1501), "vector": (700_001,), "scale": (3,)}
LAYOUTS = {"Llama": llama(), "GPTBigCode": gpt_bigcode(), "wide": WIDE}


class ThreadRank:
    """One of the ranks that are threads of this process."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self._values, self._barrier = rank, values, barrier

    def gathered(self, value: Any) -> list[Any]:
        self._barrier.wait()
        self._values[self.rank] = value
        self._barrier.wait()
        return list(self._values)


def zero3(shapes: Shapes, rank: int, world: int) -> list[Range]:
    """ZeRO-3's cut: every tensor in equal parts."""
    found = []
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        each = -(-size // world)
        found += [(kind, name, min(rank * each, size), min((rank + 1) * each, size)) for kind in KINDS]
    return [one for one in found if one[2] < one[3]]


def zero2(shapes: Shapes, rank: int, world: int) -> list[Range]:
    """ZeRO-2's: matrices end to end, and vectors, each cut in equal parts."""
    found = []
    for is_matrix in (True, False):
        group = {name: int(np.prod(shape)) for name, shape in shapes.items() if (len(shape) > 1) == is_matrix}
        each, place = -(-sum(group.values()) // world), 0
        for name, size in group.items():
            start, stop = max(place, rank * each) - place, min(place + size, (rank + 1) * each) - place
            found += [(kind, name, start, stop) for kind in KINDS if start < stop]
            place += size
    return sorted(found, key=lambda one: list(shapes).index(one[1]))


Cut = Callable[[Shapes, int, int], list[Range]]


State = dict[tuple[str, str], Floats]


@cache
def state(layout: str) -> State:
    return random_state(LAYOUTS[layout])


def random_state(shapes: Shapes) -> State:
    random = np.random.default_rng(len(shapes))
    return {(kind, name): random.random(int(np.prod(shape)), dtype=np.float32) for kind in KINDS for name, shape in shapes.items()}


def saved(storage: MemoryStorage, shapes: Shapes, full: State, world: int, cut: Cut = zero3) -> tuple[CheckpointStore, Manifest]:
    one = CheckpointStore(storage, identity="a", job="fennel").claimed()

    def pieces(rank: int) -> Iterator[Piece]:
        for kind, name, start, stop in sorted(cut(shapes, rank, world), key=lambda one: KINDS.index(one[0])):
            yield Piece(kind=kind, name=name, shape=shapes[name], start=start, stop=stop, data=full[kind, name][start:stop])  # type: ignore[arg-type]

    return one, one.commit(1, [one.write_part(1, rank, pieces(rank)) for rank in range(world)], {})


def together(world: int, act: Callable[[ThreadRank], Any]) -> list[Any]:
    """What each rank's `act` gives, or raises."""
    values, barrier = [None] * world, threading.Barrier(world, timeout=60)

    def attempted(rank: int) -> Any:
        try:
            return act(ThreadRank(rank, values, barrier))
        except Exception as error:
            return error

    with ThreadPoolExecutor(world) as threads:
        return list(threads.map(attempted, range(world)))


def read(
    one: CheckpointStore, checkpoint: Manifest, wanted: list[Range], ranks: ThreadRank, hear: Callable[[Reader], None] = lambda reader: None
) -> list[Floats]:
    """What a rank reads of its part, when all have read theirs."""
    with one.reader(checkpoint) as reader, ExitStack() as stack:
        if shared := stack.enter_context(shared_folder(ranks, one.claim.token, reader.expect(wanted))):
            reader.share(*shared)
        found = []
        for each in wanted:
            found.append(reader.read(*each))
            hear(reader)
        ranks.gathered(None)
        return found


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_node_reads_each_byte_once_whatever_world_size_wrote_it(layout: str, world: int, temporary: Path) -> None:
    shapes, full = LAYOUTS[layout], state(layout)
    ways: list[tuple[Cut, int, Cut]] = [*((zero3, then, zero3) for then in WORLDS), (zero2, 3, zero2), (zero3, 2, zero2)]
    for cut_then, then, cut in ways:
        storage, kept = CountedStorage(), list[int]()
        one, checkpoint = saved(storage, shapes, full, then, cut_then)
        wanted = [cut(shapes, rank, world) for rank in range(world)]
        storage.read = 0
        found = together(world, partial(_heard, one, checkpoint, wanted, kept))
        for ranges, values in zip(wanted, found, strict=True):
            for (kind, name, start, stop), each in zip(ranges, values, strict=True):
                assert np.array_equal(each, full[kind, name][start:stop])
        assert storage.read == sum(values.nbytes for values in full.values())
        assert max(kept) <= len(checkpoint.objects) * len(KINDS) + 8, "a rank keeps what it needs soon"
        assert not list(temporary.iterdir())


def _heard(one: CheckpointStore, checkpoint: Manifest, wanted: list[list[Range]], kept: list[int], ranks: ThreadRank) -> list[Floats]:
    return read(one, checkpoint, wanted[ranks.rank], ranks, lambda reader: kept.append(len(reader._chunks)))


def test_damage_that_one_rank_finds_ends_the_wait_of_all() -> None:
    """The first chunk is the first rank's alone, later ones both need: the second rank would wait for those that the first fetches."""
    shapes: Shapes = {"matrix": (2100, 2000), **{f"matrix.{number}": (1024, 1024) for number in range(6)}}
    storage = MemoryStorage()
    one, checkpoint = saved(storage, shapes, random_state(shapes), 1)
    key = checkpoint.objects[0].key
    storage.objects[key] = b"?" + storage.objects[key][1:]
    found = together(2, lambda ranks: _problem(one, checkpoint, zero3(shapes, ranks.rank, 2), ranks))
    assert all(isinstance(problem, DamagedCheckpoint) for problem in found)
    assert len({str(problem) for problem in found}) == 1, "both say the same"


def _problem(one: CheckpointStore, checkpoint: Manifest, wanted: list[Range], ranks: ThreadRank) -> Exception | None:
    """As a rank restores: no rank leaves before all have read."""
    problem = None
    with one.reader(checkpoint) as reader, shared_folder(ranks, one.claim.token, reader.expect(wanted)) as shared:
        assert shared is not None
        reader.share(*shared)
        try:
            for each in wanted:
                reader.read(*each)
        except DamagedCheckpoint as error:
            problem = error
        ranks.gathered(None)
    return problem


def test_nobody_waits_for_a_rank_that_has_gone() -> None:
    storage = CountedStorage()
    one, checkpoint = saved(storage, WIDE, state("wide"), 1)

    def act(ranks: ThreadRank) -> list[Floats]:
        wanted = zero3(WIDE, ranks.rank, 2)
        with one.reader(checkpoint) as reader, shared_folder(ranks, one.claim.token, reader.expect(wanted)) as shared:
            assert shared is not None
            reader.share(*shared)
            if ranks.rank == 0:
                raise StorageFailed("no more storage")
            return [reader.read(*each) for each in wanted]

    gone, left = together(2, act)
    assert str(gone) == "no more storage"
    assert isinstance(left, StorageFailed)
    assert "another worker of this node gave up" in str(left)


def test_what_a_killed_run_left_goes_with_the_next(temporary: Path) -> None:
    """Only what is in nobody's use, and nothing of others."""
    left, used, foreign = (temporary / name for name in ("finetune-restore-left", "finetune-restore-used", "other"))
    for folder in (left, foreign):
        folder.mkdir()
        (folder / "0-0.1").touch()
    one, checkpoint = saved(MemoryStorage(), WIDE, state("wide"), 1)
    wanted = [zero3(WIDE, rank, 2) for rank in range(2)]
    with folder_in_use(used):
        together(2, lambda ranks: read(one, checkpoint, wanted[ranks.rank], ranks))
    assert sorted(temporary.iterdir()) == [used, foreign]


def test_no_room_for_what_is_shared_is_told(temporary: Path) -> None:
    one, checkpoint = saved(MemoryStorage(), WIDE, state("wide"), 1)

    def act(ranks: ThreadRank) -> list[Floats]:
        wanted = zero3(WIDE, ranks.rank, 2)
        with one.reader(checkpoint) as reader, shared_folder(ranks, one.claim.token, reader.expect(wanted)) as shared:
            assert shared is not None
            reader.share(*shared)
            if ranks.rank == 0:
                for (folder,) in [list(temporary.iterdir())]:
                    folder.rmdir()
                    folder.touch()  # a file: nothing can be written below it
            ranks.gathered(None)
            return [reader.read(*each) for each in wanted]

    assert any("make room there, or name another folder by TMPDIR" in str(one) for one in together(2, act))


def test_ranks_of_two_nodes_do_not_wait_for_each_other(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node reads what its ranks need, also where two pods of one host have its name."""
    here = threading.local()
    monkeypatch.setattr("tempfile.gettempdir", lambda: here.folder)
    storage = CountedStorage()
    one, checkpoint = saved(storage, WIDE, state("wide"), 1)

    def act(ranks: ThreadRank) -> list[Floats]:
        here.folder = temporary / f"node-{ranks.rank // 2}"
        here.folder.mkdir(exist_ok=True)
        return read(one, checkpoint, zero3(WIDE, ranks.rank, 4), ranks)

    found, full = together(4, act), state("wide")
    for rank, its in enumerate(found):
        for (kind, name, start, stop), values in zip(zero3(WIDE, rank, 4), its, strict=True):
            assert np.array_equal(values, full[kind, name][start:stop])
    assert sum(values.nbytes for values in full.values()) < storage.read <= 2 * sum(values.nbytes for values in full.values())


def test_what_waits_for_a_slow_rank_is_bounded(temporary: Path) -> None:
    """Of 60 chunks, each of which every rank needs."""
    shapes: Shapes = {f"matrix.{number}": (1024, 1024) for number in range(40)}
    zeros: State = dict.fromkeys([(str(kind), name) for kind in KINDS for name in shapes], np.zeros(2**20, np.float32))
    one, checkpoint = saved(MemoryStorage(), shapes, zeros, 1)
    most = list[int]()

    def act(ranks: ThreadRank) -> list[Floats]:
        def hear(_: Reader) -> None:
            if ranks.rank == 0:
                time.sleep(0.005)
                most.append(len({path.name.partition(".")[0] for path in temporary.glob("*/*.*")}))

        return read(one, checkpoint, zero3(shapes, ranks.rank, 8), ranks, hear)

    together(8, act)
    assert max(most) <= 40
