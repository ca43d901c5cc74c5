"""Rows that are to be answered, and what is said of those that can't be."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.errors import InvalidData
from finetune_assistant.prompts.prompt_rows import question_digest, read_prompts

USER = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}


def file_of(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_a_row_has_a_question_or_a_dialogue_that_ends_with_one(tmp_path: Path) -> None:
    rows = read_prompts(file_of(tmp_path, {"prompt": "Why?", "kind": "x"}, {"messages": [USER, ANSWER, USER]}, {"prompt": [USER]}))
    assert [[message.content for message in row.messages] for row in rows] == [["Why?"], ["Why?", "So.", "Why?"], ["Why?"]]
    assert [row.number for row in rows] == [1, 2, 3]
    assert rows[0].fields == {"prompt": "Why?", "kind": "x"}


def test_other_files_are_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,kind\n"Why, oh why?",x\n')
    (tmp_path / "b.json").write_text('[{"prompt": "How?"}]')
    assert [read_prompts(str(tmp_path / name))[0].messages[0].content for name in ("a.csv", "b.json")] == ["Why, oh why?", "How?"]


def test_a_system_text_goes_where_there_is_none(tmp_path: Path) -> None:
    own = {"role": "system", "content": "own"}
    rows = read_prompts(file_of(tmp_path, {"prompt": "Why?"}, {"messages": [own, USER]}), system="given")
    assert [row.messages[0].content for row in rows] == ["given", "own"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "Why?"}, "row 2: no `prompt` and no `messages`; it has 'text'"),
        ({}, "row 2: no `prompt` and no `messages`; it has nothing"),
        ({"prompt": " "}, r"row 2: message 1 \(user\): the text is empty"),
        ({"prompt": 3}, "row 2: messages must be a list of objects"),
        ({"messages": [USER, ANSWER]}, "row 2: the last message of `messages` is not a user's, so there is nothing to answer"),
        ({"messages": [USER, USER]}, "row 2: message 2: two user turns in a row"),
        ({"messages": [{"role": "poet", "content": "x"}]}, "row 2: message 1: "),
        ('{"prompt": "cut', "row 2: not JSON"),
        ('{"prompt": "\\ud800"}', r"row 2: message 1 \(user\): half of a surrogate pair"),
        ("[1]", "row 2: a JSON list, where an object is expected"),
    ],
)
def test_a_wrong_row_is_named(row: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=rf"prompts\.jsonl: 1 of 2 rows can't be asked: {reason}"):
        read_prompts(file_of(tmp_path, {"prompt": "Why?"}, row))


def test_the_first_wrong_rows_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"9 of 9 rows can't be asked: row 1: .*row 5: [^;]*; it has 'x' \(and 4 more\); correct them"):
        read_prompts(file_of(tmp_path, *[{"x": 1}] * 9))


@pytest.mark.parametrize(
    ("content", "reason"), [("", r"the file is empty \(0 bytes\)"), ("\n\n", "no row is in it; give a file with a `prompt`")]
)
def test_an_empty_file_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(InvalidData, match=reason):
        read_prompts(str(tmp_path / "prompts.jsonl"))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "nowhere"])
def test_a_file_that_isnt_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidData, match="there is no such file; correct the path"):
        read_prompts(name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="is a folder; name a file in it"):
        read_prompts(str(tmp_path))


def test_what_identifies_a_question_is_what_is_asked_alone() -> None:
    assert question_digest({"prompt": "a", "kind": 1}) == question_digest({"answer": "b", "prompt": "a"})
    assert question_digest({"prompt": "a"}) != question_digest({"prompt": "b"})
    assert question_digest({"prompt": "a", "messages": [USER]}) != question_digest({"prompt": "a"})
