"""Rows of single files: what they are, and every way in which a file can be broken."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_api.errors import InvalidData
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.raw_rows import Unreadable

DATA = [{"text": f"größe {number}", "turns": [{"from": "human", "value": "Q"}]} for number in range(2500)]


def json_lines(path: Path, data: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in data)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def json_array(path: Path, data: list[dict[str, Any]]) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def parquet(path: Path, data: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), path, row_group_size=700)


def arrow_stream(path: Path, data: list[dict[str, Any]]) -> None:
    table = pyarrow.Table.from_pylist(data)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def arrow_file(path: Path, data: list[dict[str, Any]]) -> None:
    table = pyarrow.Table.from_pylist(data)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


WRITERS = [
    ("x.jsonl", json_lines),
    ("x.jsonl.gz", json_lines),
    ("x.json", json_lines),
    ("x.json", json_array),
    ("x.json.gz", json_array),
    ("x.parquet", parquet),
    ("x.arrow", arrow_stream),
    ("x.arrow", arrow_file),
]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[tuple[int, Any]]:
    return [(number, value) for _, number, value in file_rows(path, path.name)]


def refusal(path: Path) -> str:
    with pytest.raises(InvalidData) as caught:
        rows(path)
    assert str(caught.value).startswith(path.name)
    return str(caught.value)


@pytest.mark.parametrize(("name", "writer"), WRITERS)
def test_rows_are_numbered_from_one(tmp_path: Path, name: str, writer: Any) -> None:
    writer(tmp_path / name, DATA)
    assert list(file_rows(tmp_path / name, "called")) == [("called", number, value) for number, value in enumerate(DATA, start=1)]


@pytest.mark.parametrize(("name", "writer"), [pair for pair in WRITERS if pair[1] is not json_lines or pair[0].endswith(".gz")])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, writer: Any) -> None:
    writer(tmp_path / name, DATA)
    content = (tmp_path / name).read_bytes()
    message = refusal(write(tmp_path / name, content[: len(content) * 2 // 3]))
    assert "cut off" in message
    assert "copy" in message


def test_json_lines_cut_in_the_middle_of_a_line_end_with_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n{"a": 2}\n{"a"')
    assert rows(path)[2] == (3, Unreadable("the last line is no complete JSON; the file is cut off: copy it again"))


def test_the_last_line_needs_no_line_break(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "x.jsonl", '{"a": 1}\n{"a": 2}')) == [(1, {"a": 1}), (2, {"a": 2})]


def test_blank_lines_count_but_are_no_rows(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "x.jsonl", '\r\n{"a": 1}\r\n\n  \n{"a": 2}\n')) == [(2, {"a": 1}), (5, {"a": 2})]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    for name, text in (("x.jsonl", '{"a": 1}'), ("x.json", '[{"a": 1}]'), ("y.json", '{"a": 1}')):
        assert rows(write(tmp_path / name, b"\xef\xbb\xbf" + text.encode())) == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', "not JSON: Expecting value at column 7"),
        (b'{"a": "caf\xe9"}', "not UTF-8: byte 0xe9 at byte 11"),
        (b"[1]", "a JSON list, where an object is expected"),
        (b"null", "a JSON NoneType, where an object is expected"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_a_bad_line_is_a_row_that_others_survive(tmp_path: Path, line: bytes, reason: str) -> None:
    first, bad, last = rows(write(tmp_path / "x.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n'))
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 3}))
    assert bad[0] == 2
    assert isinstance(bad[1], Unreadable)
    assert bad[1].reason.startswith(reason)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.jsonl", b"", "the file is empty (0 bytes)"),
        ("x.parquet", b"", "the file is empty (0 bytes)"),
        ("x.parquet", b"no parquet at all, but long enough", "can't be read as parquet"),
        ("x.arrow", b"no arrow at all, but long enough", "can't be read as arrow"),
        ("x.jsonl.gz", b'{"a": 1}\n', "compressed file is cut off or damaged"),
        ("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "the file is UTF-16; convert it to UTF-8"),
        ("x.json", '[{"a": 1}]'.encode("utf-16"), "the file is UTF-16; convert it to UTF-8"),
        ("x.json", b'[{"a":\n "caf\xe9"}]', "not UTF-8 (not UTF-8: byte 0xe9 at byte 13, line 2)"),
        ("x.json", b'[{"a": 1}, {"a": }]', "not JSON (line 1, column 18"),
        ("x.json", b"[" * 100_000 + b"]", "nested too deeply"),
        ("x.json", b'"text"', "a str, where an array of objects, or one object a line, is expected"),
        ("x.json", b'{\n "a": 1\n}\n', "one JSON value over many lines; write one object a line, or put [ and ] round it"),
        ("x.jsonl", b'[\n{"a": 1}\n]\n', "one JSON value over many lines; write one object a line, or call it .json"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    assert reason in refusal(write(tmp_path / name, content))


def test_an_entry_of_an_array_that_is_no_object_is_a_bad_row(tmp_path: Path) -> None:
    bad, good = rows(write(tmp_path / "x.json", '["a", {"a": 1}]'))
    assert bad == (1, Unreadable("a JSON str, where an object is expected"))
    assert good == (2, {"a": 1})


def test_arrow_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    raw = pyarrow.array([b"good", b"caf\xe9", b"fine"]).cast(pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    table = pyarrow.table({"a": text})
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert rows(tmp_path / "x.arrow") == [
        (1, {"a": "good"}),
        (2, Unreadable("not UTF-8: byte 0xe9 at byte 4")),
        (3, {"a": "fine"}),
    ]


@contextmanager
def as_other_user() -> Iterator[None]:
    """Without root's right to read everything; for those who are not root, nothing changes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n')
    path.chmod(0)
    with as_other_user():
        assert refusal(path) == "x.jsonl: permission denied; allow this user to read it"


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """The broken end of a file does not keep its beginning from being read."""
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n' * 100_000 + "no JSON")
    assert [number for _, number, _ in islice(file_rows(path, "x"), 3)] == [1, 2, 3]


@pytest.mark.parametrize("offset", [2**31 - 1, -1])
def test_an_arrow_file_whose_offsets_are_damaged_is_refused(tmp_path: Path, offset: int) -> None:
    """Arrow looks at no offset by itself: it would read what lies behind the file, and the process would end without a word."""
    import pyarrow

    table, sink = pyarrow.table({"messages": [[{"role": "user", "content": "aaaa"}]] * 3}), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = bytes(sink.getvalue())
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 4, 8, 12))
    assert offsets in data
    path = tmp_path / "rows.arrow"
    path.write_bytes(data.replace(offsets, offsets[:8] + offset.to_bytes(4, "little", signed=True) + offsets[12:]))
    with pytest.raises(InvalidData, match=r"rows\.arrow: the file can't be read as arrow, or is cut off \(.*[Oo]ffset"):
        list(file_rows(path, "rows.arrow"))


def test_an_arrow_file_of_a_type_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """Of a damaged schema Arrow says that it hasn't implemented it, which is another family of errors."""
    table, sink = pyarrow.table({"n": [1, 2]}), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = bytes(sink.getvalue())
    bits = b"\x01\x40\x00\x00\x00"
    assert data.count(bits) == 1, "64 bits"
    path = tmp_path / "rows.arrow"
    path.write_bytes(data.replace(bits, b"\x01\x07\x00\x00\x00"))
    with pytest.raises(InvalidData, match=r"rows\.arrow: the file can't be read as arrow, or is cut off \(Integers with less than 8 bits"):
        list(file_rows(path, "rows.arrow"))
