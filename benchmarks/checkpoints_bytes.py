"""How many bytes of a checkpoint an export reads, and the ranks of a node that restore: counted from what the trainer decides.

In: names and shapes of a model's tensors. The counts are those of the trainer's own reader; tests/trainer/checkpoints/test_sharing.py
shows that it reads them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune_trainer.checkpoints.columns import COLUMNS, Piece, in_columns
from finetune_trainer.checkpoints.manifest import CHUNK_BYTES, ITEM_BYTES, Kind, Manifest, PartRecord, StoredPiece, manifest
from finetune_trainer.checkpoints.reader import Range, Reader
from finetune_trainer.checkpoints.sharing import Chunk, task

KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
WORLDS = (1, 2, 4, 8, 16)
Shapes = Mapping[str, tuple[int, ...]]


def counted(shapes: Shapes) -> dict[str, Any]:
    """For each world size that wrote: bytes read by bytes needed, of an export, and of a restore at every size."""
    found: dict[str, Any] = {"bytes": sum(map(math.prod, shapes.values())) * ITEM_BYTES * len(KINDS)}
    for then in WORLDS:
        checkpoint = _checkpoint(shapes, then)
        whole = [("master", name, 0, math.prod(shape)) for name, shape in shapes.items()]
        export = _bytes(checkpoint, _needs(checkpoint, whole)) / (found["bytes"] / len(KINDS))
        found[str(then)] = {"export": export, "restore": {str(now): _restored(shapes, checkpoint, now) for now in WORLDS}}
    return found


def _restored(shapes: Shapes, checkpoint: Manifest, world: int) -> dict[str, float]:
    """Of `world` ranks of one node, and of as many on two nodes."""
    needs = [_needs(checkpoint, list(_cut(shapes, rank, world))) for rank in range(world)]
    whole = _bytes(checkpoint, list(_all_chunks(checkpoint)))
    halves = [needs[: world // 2], needs[world // 2 :]] if world > 1 else [needs]
    return {
        "shared": _together(checkpoint, needs) / whole,
        "alone": sum(_bytes(checkpoint, one) for one in needs) / whole,
        "two_nodes": sum(_together(checkpoint, half) for half in halves) / whole,
    }


def _together(checkpoint: Manifest, needs: list[list[Chunk]]) -> int:
    """Bytes that ranks of one node read."""
    return sum(_bytes(checkpoint, list(task(needs, rank).fetches)) for rank in range(len(needs)))


def _all_chunks(checkpoint: Manifest) -> Iterator[Chunk]:
    """Every chunk."""
    for index, one in enumerate(checkpoint.objects):
        yield from ((index, chunk) for chunk in range(len(one.bounds) - 1))


def _needs(checkpoint: Manifest, ranges: list[Range]) -> list[Chunk]:
    with Reader(_Nothing(), checkpoint) as reader:  # type: ignore[arg-type]
        return reader.expect(ranges)


def _bytes(checkpoint: Manifest, chunks: list[Chunk]) -> int:
    bounds = [one.bounds for one in checkpoint.objects]
    return sum(bounds[index][chunk + 1] - bounds[index][chunk] for index, chunk in chunks)


def _cut(shapes: Shapes, rank: int, world: int) -> Iterator[Range]:
    """ZeRO-3's: every tensor in equal parts, name by name."""
    for name, shape in shapes.items():
        size = math.prod(shape)
        each = -(-size // world)
        start, stop = min(rank * each, size), min((rank + 1) * each, size)
        if start < stop:
            yield from ((kind, name, start, stop) for kind in KINDS)


def _checkpoint(shapes: Shapes, world: int) -> Manifest:
    """As `world` ranks write it, without its bytes."""
    return manifest("a", 1, 1, [_part(shapes, rank, world) for rank in range(world)], {})


def _part(shapes: Shapes, rank: int, world: int) -> PartRecord:
    pieces: list[StoredPiece] = []
    sections, size = [], 0
    nothing = np.float32(0)
    for kind in KINDS:
        cuts = ((name, start, stop) for its, name, start, stop in _cut(shapes, rank, world) if its == kind)
        own = (
            Piece(kind=kind, name=name, shape=shapes[name], start=start, stop=stop, data=np.broadcast_to(nothing, stop - start))
            for name, start, stop in cuts
        )
        for column in in_columns(own, COLUMNS):
            before = size
            for one in column:
                pieces.append(StoredPiece(kind=kind, name=one.name, shape=one.shape, start=one.start, stop=one.stop, offset=size))
                size += one.data.size * ITEM_BYTES
            sections += [size - before] if size > before else []
    digests = ("",) * sum(-(-one // CHUNK_BYTES) for one in sections)
    return PartRecord(rank=rank, key=f"{rank}", size=size, sections=tuple(sections), digests=digests, pieces=tuple(pieces))


@dataclass(slots=True)
class _Nothing:
    """A storage that is never read."""

    url: str = field(default="nothing", init=False)
