"""CSV and TSV: the header names the columns, a record that doesn't fit it is one bad row."""

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue
from finetune_trainer.data.files import file_rows
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.raw_rows import Unreadable


def rows(path: Path, content: str | bytes) -> list[tuple[int, Any]]:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return [(number, value) for _, number, value in file_rows(path, path.name)]


@pytest.mark.parametrize(("name", "mark"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ","), ("x.tsv.gz", "\t")])
def test_rows_are_records_and_all_cells_text(tmp_path: Path, name: str, mark: str) -> None:
    content = f'prompt{mark}completion\nQ{mark}7\n\n"a{mark} ""b""\nc"{mark}größe\n'
    assert rows(tmp_path / name, content) == [
        (1, {"prompt": "Q", "completion": "7"}),
        (3, {"prompt": f'a{mark} "b"\nc', "completion": "größe"}),
    ]


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    assert rows(tmp_path / "x.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n") == [(1, {"a": "1", "b": "2"})]


def test_a_long_cell(tmp_path: Path) -> None:
    """Python's own limit is 128 KiB."""
    assert rows(tmp_path / "x.csv", f"a,b\n{'x' * 500_000},2\n")[0][1]["b"] == "2"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1", "1 cells, while the header names 2 columns"),
        (b"1,2,3", "3 cells, while the header names 2 columns"),
        (b"1,caf\xe9", "not UTF-8 (column 'b'); convert the file to UTF-8"),
    ],
)
def test_a_record_that_does_not_fit_is_a_bad_row(tmp_path: Path, record: bytes, reason: str) -> None:
    assert rows(tmp_path / "x.csv", b"a,b\n1,2\n" + record + b"\n3,4\n") == [
        (1, {"a": "1", "b": "2"}),
        (2, Unreadable(reason)),
        (3, {"a": "3", "b": "4"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"a;b\n1;2\n", "the header has one column, 'a;b', with ';' in it; divide the columns by commas (or call it .tsv)"),
        ("x.csv", b"a\tb\n1\t2\n", "divide the columns by commas (or call it .tsv)"),
        ("x.tsv", b"a,b\n1,2\n", "divide the columns by tabs (or call it .csv)"),
        ("x.csv", b"a,a\n1,2\n", "the first line must name the columns, each once; it is 'a', 'a'"),
        ("x.csv", b"a,\n1,2\n", "the first line must name the columns, each once; it is 'a', ''"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), "the header is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_a_file_that_can_not_be_divided_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(InvalidData) as caught:
        rows(tmp_path / name, content)
    assert reason in str(caught.value)


def test_quotes_that_are_wrong_are_a_bad_row_too(tmp_path: Path) -> None:
    stray, good = rows(tmp_path / "x.csv", b'a,b\n1,"2" x\n3,4\n')
    assert stray[1] == Unreadable("line 2: ',' expected after '\"'; close its quotes, and double those inside a cell")
    assert good == (2, {"a": "3", "b": "4"})
    good, unclosed = rows(tmp_path / "x.csv", b'a,b\n1,2\n3,"4\n5,6\n')
    assert good == (1, {"a": "1", "b": "2"})
    assert unclosed[1] == Unreadable("line 3 to 4: unexpected end of data; close its quotes, and double those inside a cell")


def test_dialogues_from_a_table_of_messages_as_json(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["messages", "system"], ['[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]', "S"]]
        )
    (item,) = parse(file_rows(tmp_path / "x.csv", "x.csv"), DataSource(path="./x.csv"))
    assert isinstance(item, Dialogue)
    assert [message.content for message in item.messages] == ["S", "Q", "A"]


def test_dialogues_from_a_table_of_columns(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("question\tanswer\ttools\nQ\tA\t\n")
    source = DataSource.model_validate({"path": "./x.tsv", "columns": {"prompt": "question", "completion": "answer"}})
    (item,) = parse(file_rows(tmp_path / "x.tsv", "x.tsv"), source)
    assert isinstance(item, Dialogue)
    assert ([message.content for message in item.messages], item.tools) == (["Q", "A"], ())


def test_a_header_whose_quote_is_never_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,"completion\nWhy?,So\n')
    with pytest.raises(InvalidData, match=r"rows\.csv: the first line must name the columns, and can't be read: .*; close its quotes"):
        list(file_rows(path, "rows.csv"))
