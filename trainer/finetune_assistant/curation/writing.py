"""A file of rows, whole or not at all: JSON lines or Parquet, in the order of the rows or shuffled.

In: lines of JSON, and what columns they have. Out: the file. A thousand rows of it are in memory, and when it is shuffled the place of each
line; lines that can't be written at once lie in a draft beside the file. What a row is, nobody here knows.

Parquet has one schema for all rows, and messages may differ in their keys, tools in everything. Where they do, each is kept as JSON text of
Arrow's type arrow.json, which `datasets` (5.2) gives back as the object that it was. Of JSON lines `datasets` guesses the columns from the
first 10 MB, and fails on later rows that have others: `Written.is_uneven` says where that may happen.
"""

import json
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from finetune_trainer.files.atomic import atomically

GUESSED_BYTES: Final = 10 << 20  # from which `datasets` guesses columns (5.2)
SUFFIXES: Final = (".jsonl", ".parquet")
_ROWS: Final = 1000  # in memory, and in a row group


@dataclass(slots=True)
class Columns:
    """What the rows that were met so far have. Filled while lines are made, read when all of them are."""

    names: dict[str, None] = field(default_factory=dict)
    are_plain: bool = True  # messages are roles and texts, and there are no tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How many rows a file has. `is_uneven`: `datasets` may fail on the file, as late rows have other columns than the first."""

    rows: int
    is_uneven: bool = False


def write_lines(output: Path, lines: Iterable[str], columns: Columns, *, shuffle_seed: int | None = None) -> Written:
    """Write lines to `output`, whose suffix is one of SUFFIXES. `columns` is complete when the last line was taken.

    The file appears when the last row is in it; an error of `lines` leaves what was there before. Raises OSError.
    """
    with atomically(output) as draft:
        if output.suffix == ".jsonl" and shuffle_seed is None:
            rows = _append(draft, lines)
        else:
            with _draft(output.parent) as scratch:
                rows = _append(scratch, lines)
                ordered = _lines(scratch) if shuffle_seed is None else _shuffled(scratch, shuffle_seed)
                if output.suffix == ".parquet":
                    _write_parquet(draft, ordered, columns)
                else:
                    with draft.open("wb") as file:
                        file.writelines(ordered)
        size = draft.stat().st_size
    return Written(rows=rows, is_uneven=output.suffix == ".jsonl" and not columns.are_plain and size > GUESSED_BYTES)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A place for lines on the disk of `folder`, gone afterwards."""
    with TemporaryDirectory(prefix=".finetune-", dir=folder) as scratch:
        yield Path(scratch, "rows.jsonl")


def _append(path: Path, lines: Iterable[str]) -> int:
    rows = 0
    with path.open("x", encoding="utf-8", newline="") as file:
        for rows, line in enumerate(lines, start=1):  # noqa: B007  counted
            file.write(line)
    return rows


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _shuffled(path: Path, seed: int) -> Iterator[bytes]:
    """The lines in an order that depends on their number and `seed` alone: each as likely as another."""
    import numpy as np

    starts = np.fromiter(_ends(path), np.int64)
    if not len(starts):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for index in np.random.default_rng(seed).permutation(len(starts)):
            yield content[int(starts[index - 1]) if index else 0 : int(starts[index])]


def _ends(path: Path) -> Iterator[int]:
    """Where each line ends, in bytes."""
    end = 0
    for line in _lines(path):
        end += len(line)
        yield end


def _write_parquet(path: Path, lines: Iterator[bytes], columns: Columns) -> None:
    import pyarrow
    import pyarrow.parquet

    schema, as_json = _schema(columns)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := [json.loads(line) for line in islice(lines, _ROWS)]:
            arrays = [_array([row.get(field.name) for row in chunk], field, field.name in as_json) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _schema(columns: Columns) -> tuple[Any, frozenset[str]]:
    """The schema, and the columns whose values are lists of JSON texts."""
    import pyarrow

    numbers = {"input_ids": pyarrow.int32(), "attention_mask": pyarrow.int8(), "labels": pyarrow.int64()}  # labels: as PyTorch's losses
    message = pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()})
    if columns.are_plain:
        types = {name: pyarrow.list_(kind) for name, kind in (numbers | {"messages": message}).items()}
        return pyarrow.schema({name: types.get(name, pyarrow.string()) for name in columns.names}), frozenset()
    from datasets import Features, Json, List, Value

    as_json = frozenset(("messages", "tools"))
    features = {name: List(Json()) if name in as_json else Value("string") for name in columns.names}
    return Features(features).arrow_schema, as_json


def _array(values: list[Any], field: Any, as_json: bool) -> Any:
    import pyarrow

    if not as_json:
        return pyarrow.array(values, field.type)
    texts = [None if value is None else [json.dumps(each, ensure_ascii=False) for each in value] for value in values]
    return pyarrow.array(texts, pyarrow.list_(pyarrow.string())).cast(field.type)
