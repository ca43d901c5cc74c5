"""Which examples share a row: best-fit decreasing, planned on the histogram of lengths.

In: the length of each example and the capacity of a row. Out: a `Packing`, every example in exactly one row. A pure
function of its input: no seed, no order but that of the examples. What is inside an example is not known here; that
examples of one row never attend to one another is the attention's business.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Rows as compressed lists: row r holds `example_indices[row_offsets[r] : row_offsets[r + 1]]`, ascending."""

    capacity: int
    row_offsets: Integers  # (rows + 1,)
    example_indices: Integers  # (examples,)
    row_tokens: Integers  # (rows,)

    @property
    def num_rows(self) -> int:
        return len(self.row_tokens)

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that is used; the rest is never computed, because rows are not padded."""
        return float(self.row_tokens.sum()) / max(self.num_rows * self.capacity, 1)

    def row(self, index: int) -> Integers:
        """The examples of a row."""
        return self.example_indices[self.row_offsets[index] : self.row_offsets[index + 1]]


def pack(lengths: Integers, capacity: int) -> Packing:
    """Best-fit decreasing: the longest example first, each into the fullest row that still takes it.

    Examples of one length are placed together, so the work grows with the number of different lengths and not with the
    number of examples: a million take a fraction of a second. `lengths` are in 1..capacity.

    >>> packing = pack(np.array([5, 3, 2, 7]), capacity=8)
    >>> [packing.row(row).tolist() for row in range(packing.num_rows)]
    [[3], [0, 1], [2]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    assert len(lengths) == 0 or (lengths.min() >= 1 and lengths.max() <= capacity), "an example is empty or longer than a row"
    row_of, num_rows = _rows_of_examples(lengths, capacity)
    return Packing(
        capacity=capacity,
        row_offsets=np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=num_rows))]).astype(np.int64),
        example_indices=np.argsort(row_of, kind="stable"),
        row_tokens=np.bincount(row_of, weights=lengths, minlength=num_rows).astype(np.int64),
    )


def _rows_of_examples(lengths: Integers, capacity: int) -> tuple[Integers, int]:
    """The row of each example, and the number of rows."""
    row_of = np.empty(len(lengths), dtype=np.int64)
    room = _Room()
    num_rows = 0
    for length, examples in _longest_first(lengths):
        while len(examples):
            free = room.tightest(length)
            if free is None:
                free, per_row = capacity, capacity // length
                rows = np.arange(num_rows, num_rows + -(-len(examples) // per_row))
                num_rows += len(rows)
            else:
                rows, per_row = room.take(free), free // length
            examples = _fill(room, rows, free, length, examples, row_of)
    return row_of, num_rows


def _longest_first(lengths: Integers) -> list[tuple[int, Integers]]:
    """(length, its examples in ascending order), longest first."""
    order = np.argsort(lengths, kind="stable")
    values, starts = np.unique(lengths[order], return_index=True)
    return list(zip(values.tolist(), np.split(order, starts[1:]), strict=True))[::-1] if len(lengths) else []


def _fill(room: "_Room", rows: Integers, free: int, length: int, examples: Integers, row_of: Integers) -> Integers:
    """Put examples of one length into rows that have `free` tokens left each; returns those that found no place.

    A row that took one is now the tightest that takes another, so each is filled as far as it goes before the next is touched.
    """
    per_row = free // length
    whole = min(len(rows), len(examples) // per_row)
    row_of[examples[: whole * per_row]] = np.repeat(rows[:whole], per_row)
    room.put(free - per_row * length, rows[:whole])
    rows, examples = rows[whole:], examples[whole * per_row :]
    if len(rows) and len(examples):  # fewer than a row takes
        row_of[examples] = rows[0]
        room.put(free - len(examples) * length, rows[:1])
        rows, examples = rows[1:], examples[:0]
    room.put(free, rows)
    return examples


class _Room:
    """Rows by the tokens they have left."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Integers]] = {}
        self._free: list[int] = []  # the keys, ascending

    def put(self, free: int, rows: Integers) -> None:
        if free == 0 or len(rows) == 0:
            return
        if free not in self._rows:
            self._rows[free] = []
            insort(self._free, free)
        self._rows[free].append(rows)

    def take(self, free: int) -> Integers:
        """All rows with exactly this much left."""
        del self._free[bisect_left(self._free, free)]
        return np.concatenate(self._rows.pop(free))

    def tightest(self, length: int) -> int | None:
        """The least that some row has left and that is enough."""
        at = bisect_left(self._free, length)
        return self._free[at] if at < len(self._free) else None
