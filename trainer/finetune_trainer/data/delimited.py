"""Rows of CSV and TSV: a header that names the columns, then one record a row.

In: an open file. Out: rows numbered from 1, the header not counted, all cells text. A record that doesn't fit the header is an `Unreadable`
row; a file without a usable header is InvalidData. A cell that holds JSON, such as a list of messages, is parsed where its column is read.
"""

import csv
import io
from collections.abc import Iterator
from typing import IO

from finetune_api.errors import InvalidData
from finetune_trainer.data.raw_rows import Row, Unreadable

_LARGEST_CELL = 256 * 2**20  # characters; the library's own limit is 128 KiB, which a long dialogue exceeds


def delimited_rows(file: IO[bytes], name: str, delimiter: str) -> Iterator[Row]:
    """The records of a file. Raises InvalidData."""
    csv.field_size_limit(_LARGEST_CELL)
    # What is no UTF-8 is kept as half characters, to be found in its own row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _records(text, name, delimiter)
    finally:
        text.detach()  # the file is closed by whoever opened it


def _records(text: io.TextIOWrapper, name: str, delimiter: str) -> Iterator[Row]:
    records = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(records, name, delimiter)
    number = 0
    while True:
        number += 1
        line = records.line_num + 1
        try:
            cells = next(records, None)
        except csv.Error as error:
            # The reader goes on with the next line. A quote that is never closed takes all lines up to the end.
            last = f" to {records.line_num}" if records.line_num > line else ""
            yield name, number, Unreadable(f"line {line}{last}: {error}; close its quotes, and double those inside a cell")
            continue
        if cells is None:
            return
        if cells:
            yield name, number, _row(header, cells)


def _header(records: "Iterator[list[str]]", name: str, delimiter: str) -> list[str]:
    try:
        header = next(records, [])
    except csv.Error as error:
        raise InvalidData(f"{name}: the first line must name the columns, and can't be read: {error}; close its quotes") from None
    other = next((mark for mark in (";", "\t", ",") if mark != delimiter and len(header) == 1 and mark in header[0]), None)
    if other is not None:
        wanted = "commas (or call it .tsv)" if delimiter == "," else "tabs (or call it .csv)"
        raise InvalidData(f"{name}: the header has one column, {header[0]!r}, with {other!r} in it; divide the columns by {wanted}")
    if "\x00" in "".join(header) or any("\udc80" <= character <= "\udcff" for character in "".join(header)):
        raise InvalidData(f"{name}: the header is not UTF-8; convert the file to UTF-8")
    if not header or not all(header) or len(set(header)) < len(header):
        raise InvalidData(f"{name}: the first line must name the columns, each once; it is {', '.join(map(repr, header)) or 'empty'}")
    return header


def _row(header: list[str], cells: list[str]) -> dict[str, str] | Unreadable:
    if len(cells) != len(header):
        return Unreadable(f"{len(cells)} cells, while the header names {len(header)} columns")
    for column, cell in zip(header, cells, strict=True):
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            return Unreadable(f"not UTF-8 (column {column!r}); convert the file to UTF-8")
    return dict(zip(header, cells, strict=True))
