"""Rows of Parquet and Arrow, and of the tables that the `datasets` library reads them into.

In: files or tables. Out: rows as JSON would give them. Two things are Arrow's own: a struct has every field that any row has, null where
a row hasn't it, so null fields of structs are left out; and `datasets` keeps values of mixed types as JSON text (type arrow.json).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune_trainer.data.raw_rows import Columns, Unreadable, undecodable

BATCH_ROWS = 1000  # in memory at a time

Values = Iterator[Columns | Unreadable]
Rewrite = Callable[[Any], Any]


def parquet_rows(path: Path) -> Values:
    """The rows of a Parquet file."""
    import pyarrow.parquet

    with _arrow_errors(), pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from table_rows(batch)


def arrow_rows(path: Path) -> Values:
    """Both forms of Arrow IPC: the file, which begins with a magic word, and the stream, which `datasets` writes."""
    import pyarrow

    with _arrow_errors(), pyarrow.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(source))
        for batch in batches:
            _check_buffers(batch)
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield from table_rows(batch.slice(start, BATCH_ROWS))


@contextmanager
def _arrow_errors() -> Iterator[None]:
    """Errors of Arrow's that are no ValueError become one: damage may look like a type that it doesn't have, or like a huge table."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OverflowError) as error:
        raise ValueError(str(error)) from error


def _check_buffers(batch: Any) -> None:
    """Arrow reads a file where it lies, and a damaged offset would lead it out of the file: the process would end without a word.

    Raises ValueError. Texts are looked at as bytes: one that isn't UTF-8 makes one row wrong, and not the file.
    """
    import pyarrow

    for column in batch.columns:
        # Where Arrow can't show it so, texts are looked at, too.
        with suppress(pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, TypeError):
            column = column.view(_of_bytes(column.type))
        column.validate(full=True)


def _of_bytes(arrow_type: Any) -> Any:
    """The type with bytes in place of texts."""
    import pyarrow

    types = pyarrow.types
    if types.is_string(arrow_type):
        return pyarrow.binary()
    if types.is_large_string(arrow_type):
        return pyarrow.large_binary()
    if types.is_list(arrow_type):
        return pyarrow.list_(_of_bytes(arrow_type.value_type))
    if types.is_large_list(arrow_type):
        return pyarrow.large_list(_of_bytes(arrow_type.value_type))
    if types.is_struct(arrow_type):
        fields = [arrow_type.field(index) for index in range(arrow_type.num_fields)]
        return pyarrow.struct([(field.name, _of_bytes(field.type)) for field in fields])
    return arrow_type


def table_rows(table: Any) -> Values:
    """Rows of a pyarrow Table or RecordBatch; Arrow does not check that its strings are UTF-8."""
    rewrites = {field.name: rewrite for field in table.schema if (rewrite := _rewrite(field.type)) is not None}
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError:
        for index in range(table.num_rows):
            try:
                yield _rewritten(table.slice(index, 1).to_pylist()[0], rewrites)
            except UnicodeDecodeError as error:
                yield Unreadable(undecodable(error))
        return
    yield from (_rewritten(row, rewrites) for row in rows) if rewrites else rows


def _rewritten(row: Columns, rewrites: dict[str, Rewrite]) -> Columns | Unreadable:
    try:
        return {**row, **{name: rewrite(row[name]) for name, rewrite in rewrites.items() if row[name] is not None}}
    except (ValueError, RecursionError) as error:
        return Unreadable(undecodable(error))


def _rewrite(arrow_type: Any, inside: bool = False) -> Rewrite | None:
    """What turns a value of this type into what JSON would give; None where it is that already. `inside`: of a struct."""
    import pyarrow

    types = pyarrow.types
    if getattr(arrow_type, "extension_name", None) == "arrow.json":
        return json.loads
    if types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type):
        inner = _rewrite(arrow_type.value_type, inside)
        return None if inner is None else lambda values: [None if value is None else inner(value) for value in values]
    if types.is_struct(arrow_type):
        fields = [arrow_type.field(index) for index in range(arrow_type.num_fields)]
        rewrites = {field.name: rewrite for field in fields if (rewrite := _rewrite(field.type, inside=True)) is not None}
        # A role and a text: what is missing there is a fault, however it is written.
        if not inside and len(fields) <= 2 and not rewrites and not any(types.is_nested(field.type) for field in fields):
            return None
        return lambda value: {
            name: rewrites[name](inner) if name in rewrites else inner for name, inner in value.items() if inner is not None
        }
    return None
