"""Files of rows: whole or not at all, in an order that a seed decides, and read by `datasets`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.curation.rows import dialogue
from tests.assistant.curation.test_rows import CALLING

from finetune_assistant.curation.rows import RowLines, row_object
from finetune_assistant.curation.writing import Written, write_lines
from finetune_trainer.data.arrow import parquet_rows
from finetune_trainer.data.dialogues import Document, Parsed

PLAIN: list[Parsed] = [dialogue(f"Question {number} \u2028é\n?", "Answer") for number in range(2500)]


def write(output: Path, rows: list[Parsed], seed: int | None = None) -> Written:
    lines = RowLines()
    return write_lines(output, map(lines.line, rows), lines.columns, shuffle_seed=seed)


def read(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        return list(parquet_rows(path))
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_all_rows_in_their_order(tmp_path: Path, name: str) -> None:
    assert write(tmp_path / name, PLAIN) == Written(rows=2500)
    assert read(tmp_path / name) == [row_object(row) for row in PLAIN]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_seed_decides_the_order(tmp_path: Path, name: str) -> None:
    orders = []
    for seed in (1, 1, 2):
        write(tmp_path / name, PLAIN, seed)
        orders.append([row["messages"][0]["content"] for row in read(tmp_path / name)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(row_object(row)["messages"][0]["content"] for row in PLAIN)
    moved = sum(place != other for place, other in zip(orders[0], [row.messages[0].content for row in PLAIN], strict=True))  # type: ignore[union-attr]
    assert moved > 2400


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("seed", [None, 1])
def test_no_rows(tmp_path: Path, name: str, seed: int | None) -> None:
    assert write(tmp_path / name, [], seed).rows == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_an_error_in_the_middle_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    output.write_text("before")
    lines = RowLines()

    def failing() -> Iterator[str]:
        yield lines.line(PLAIN[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lines(output, failing(), lines.columns, shuffle_seed=3)
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def loaded(path: Path) -> Any:
    import datasets

    kind = "json" if path.suffix == ".jsonl" else "parquet"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_datasets_reads_plain_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, PLAIN[:10])
    rows = loaded(tmp_path / name)
    assert rows.features["messages"].feature.keys() == {"role", "content"}
    assert list(rows) == [row_object(row) for row in PLAIN[:10]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_datasets_reads_rows_with_and_without_tools(tmp_path: Path, name: str) -> None:
    other = CALLING._replace(tools=({"type": "function", "function": {"name": "v", "parameters": {"properties": {"n": {"enum": [1]}}}}},))
    rows: list[Parsed] = [PLAIN[0], CALLING, other, PLAIN[1]]
    write(tmp_path / name, rows)
    found = list(loaded(tmp_path / name))
    assert [row["messages"] for row in found] == [row_object(row)["messages"] for row in rows]
    assert found[0]["tools"] is None
    if name == "rows.parquet":
        assert [{key: value for key, value in row.items() if value is not None} for row in found] == [row_object(row) for row in rows]


def test_what_datasets_can_t_read_of_lines_is_told_and_it_reads_it_of_parquet(tmp_path: Path) -> None:
    """The first 10 MB have plain messages, and then comes a call: guessed columns don't hold it (datasets 5.2)."""
    import datasets

    rows: list[Parsed] = [*[dialogue("x" * 5000, "y" * 1000)] * 1800, CALLING]
    assert write(tmp_path / "rows.jsonl", rows).is_uneven
    assert not write(tmp_path / "rows.parquet", rows).is_uneven
    assert not write(tmp_path / "small.jsonl", rows[-2:]).is_uneven
    with pytest.raises(datasets.exceptions.DatasetGenerationError):
        loaded(tmp_path / "rows.jsonl")
    assert loaded(tmp_path / "rows.parquet")[1800]["messages"] == row_object(CALLING)["messages"]


def test_documents(tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", [Document(source="x", row=1, tree="t", text="all")])
    assert read(tmp_path / "rows.parquet") == [{"text": "all"}]
