"""The rows of one local file: JSON lines, a JSON array, CSV, TSV, Parquet or Arrow.

In: a path and the name that messages call it. Out: rows numbered from 1, read as they are asked for. A line that can't be
decoded becomes an `Unreadable` row, so that the limit for wrong rows decides; a file that can't be read, or ends too early, is
InvalidData. What the columns mean is decided in `parsing`.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from finetune_api.errors import InvalidData
from finetune_trainer.data.arrow import arrow_rows, parquet_rows
from finetune_trainer.data.delimited import delimited_rows
from finetune_trainer.data.raw_rows import Row, Unreadable, undecodable

LARGEST_LINE = 256 * 2**20  # bytes of one JSON object: some 64 million tokens


def file_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a file, whose suffix says what it is. Raises InvalidData."""
    with _as_invalid_data(name):
        if path.stat().st_size == 0:
            raise InvalidData(f"{name}: the file is empty (0 bytes); copy it again, or remove it")
        if path.suffix in (".parquet", ".arrow"):
            values = parquet_rows(path) if path.suffix == ".parquet" else arrow_rows(path)
        elif {".csv", ".tsv"} & set(path.suffixes):
            with _opened(path) as file:
                yield from delimited_rows(file, name, "\t" if ".tsv" in path.suffixes else ",")
            return
        elif ".jsonl" in path.suffixes:
            yield from _json_lines(path, name)
            return
        else:
            yield from _json(path, name)
            return
        for number, value in enumerate(values, start=1):
            yield name, number, value


@contextmanager
def _as_invalid_data(name: str) -> Iterator[None]:
    """Every way in which reading a file fails, as InvalidData with what to do."""
    try:
        yield
    except InvalidData:
        raise
    except FileNotFoundError:
        raise InvalidData(f"{name}: there is no such file; correct the path") from None
    except PermissionError:
        raise InvalidData(f"{name}: permission denied; allow this user to read it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidData(f"{name}: the compressed file is cut off or damaged ({error}); copy it again") from error
    except (ValueError, OSError) as error:  # pyarrow's errors are both
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidData(f"{name}: the file can't be read as {_kind(name)}, or is cut off ({first_line}); copy it again") from error


def _kind(name: str) -> str:
    return next((kind for kind in ("parquet", "arrow", "jsonl", "json", "csv", "tsv") if f".{kind}" in name), "data")


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _json_lines(path: Path, name: str) -> Iterator[Row]:
    """One JSON object a line, one line in memory at a time."""
    with _opened(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if number == 1:
                line = _without_mark(line, name)
            try:
                value = json.loads(line.decode())
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
                if line.isspace() or not line:
                    continue
                if number == 1 and (opened := line.strip()) in (b"{", b"["):
                    remedy = "put [ and ] round it, and call it .json" if opened == b"{" else "call it .json"
                    raise InvalidData(f"{name}: one JSON value over many lines; write one object a line, or {remedy}") from None
                yield name, number, Unreadable(_line_reason(line, error))
            else:
                yield name, number, value if isinstance(value, dict) else _no_object(value)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file. One that is longer than any row may be comes without its end: half of it is no JSON."""
    while line := file.readline(LARGEST_LINE + 1):
        yield line
        while len(line) > LARGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(LARGEST_LINE + 1)


def _line_reason(line: bytes, error: Exception) -> str:
    if len(line) > LARGEST_LINE:
        return f"the line is longer than {LARGEST_LINE >> 20} MiB"
    if not line.endswith(b"\n") and isinstance(error, json.JSONDecodeError):
        return "the last line is no complete JSON; the file is cut off: copy it again"
    return undecodable(error)


def _json(path: Path, name: str) -> Iterator[Row]:
    """An array of objects, which is in memory as a whole; a .json file that begins with `{` is taken for JSON lines."""
    with _opened(path) as file:
        start = _without_mark(file.read(1024), name).lstrip()
        if start.startswith(b"{"):
            yield from _json_lines(path, name)
            return
        file.seek(0)
        content = _without_mark(file.read(), name)
    try:
        values = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{name}: not UTF-8 ({undecodable(error)}, line {content.count(10, 0, error.start) + 1}); convert it to UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        what = "the array is cut off" if not content.rstrip().endswith(b"]") else "not JSON"
        raise InvalidData(f"{name}: {what} (line {error.lineno}, column {error.colno}: {error.msg}); copy or correct it") from None
    except RecursionError:
        raise InvalidData(f"{name}: the JSON is nested too deeply; write one object a line, with rows of a known format") from None
    if not isinstance(values, list):
        raise InvalidData(f"{name}: a {type(values).__name__}, where an array of objects, or one object a line, is expected; write it so")
    del content
    for number, value in enumerate(values, start=1):
        yield name, number, value if isinstance(value, dict) else _no_object(value)


def _without_mark(start: bytes, name: str) -> bytes:
    """The first bytes of a text without UTF-8's byte order mark; UTF-16 is refused as a whole, or each line would be wrong."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidData(f"{name}: the file is UTF-16; convert it to UTF-8")
    return start.removeprefix(b"\xef\xbb\xbf")


def _no_object(value: Any) -> Unreadable:
    return Unreadable(f"a JSON {type(value).__name__}, where an object is expected")
