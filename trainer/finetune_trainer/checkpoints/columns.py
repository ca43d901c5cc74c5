"""In which order a part's bytes lie: kind by kind, and in each kind in columns, sixteenths of all its tensors.

Column 3 of a kind holds the elements from 3/16 to before 4/16 of every tensor, tensor by tensor, and begins with a chunk of its own. Ranks
of ZeRO-3 own equal parts of every tensor, so what a node needs at another world size is a number of whole columns, read without a byte of
its neighbours', whatever world size wrote them. Tensor by tensor it would be a stretch in the middle of each: chunks of 8 MiB hold several
tensors of a small model whole, and every node would read them all. A border of ranks inside a column, such as a third, costs that column,
read from both sides.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from finetune_trainer.checkpoints.manifest import ITEM_BYTES, Kind

Floats = np.ndarray[tuple[int], np.dtype[np.float32]]
COLUMNS: Final = 16
# No column is smaller: a small model is read at once rather than in ranges of some hundred KB.
_LEAST_BYTES: Final = 2 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Elements [start, stop) of a flattened tensor of `shape`; `data`: float32 (stop - start,)."""

    kind: Kind
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    data: Floats


def in_columns(pieces: Iterable[Piece], most: int) -> Iterator[Iterable[Piece]]:
    """Pieces of one kind as the columns that they have a part in, at most so many; with one column they are passed on as they come."""
    if most == 1:
        yield pieces
        return
    given = list(pieces)
    columns = fitting(most, sum(math.prod(piece.shape) for piece in given) * ITEM_BYTES)
    for column in range(columns):
        yield [cut for piece in given if (cut := _cut(piece, column, columns)) is not None]


def fitting(most: int, num_bytes: int) -> int:
    """How many columns tensors of so many bytes have: halves, quarters and so on, none of them too small.

    >>> fitting(16, 540_000_000), fitting(16, 10_000_000), fitting(16, 0)
    (16, 4, 1)
    """
    columns = most
    while columns > 1 and num_bytes < columns * _LEAST_BYTES:
        columns //= 2
    return columns


def border(size: int, column: int, columns: int) -> int:
    """The first element of a column, of a tensor of so many: where ZeRO-3 cuts it among ranks, or as near as can be.

    >>> [border(64, column, 4) for column in range(5)], [border(7, column, 4) for column in range(5)]
    ([0, 16, 32, 48, 64], [0, 2, 4, 6, 7])
    """
    return -(-column * size // columns)


def _cut(piece: Piece, column: int, columns: int) -> Piece | None:
    """What a column has of a piece; a piece without elements is in the first one."""
    size = math.prod(piece.shape)
    first, last = border(size, column, columns), border(size, column + 1, columns)
    start, stop = max(piece.start, first), min(piece.stop, last)
    if start >= stop:
        return piece if piece.start == piece.stop and column == 0 else None
    return replace(piece, start=start, stop=stop, data=piece.data[start - piece.start : stop - piece.start])
