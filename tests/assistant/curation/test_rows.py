"""Rows as lines: the short way gives what the long way gives, and parsing gives back what was written."""

import json

import pytest
from tests.assistant.curation.rows import CALL, TOOL, dialogue

from finetune_api.finetunejob import DataSource
from finetune_assistant.curation.rows import Prompts, RowLines, prompt_object, row_object
from finetune_trainer.data.dialogues import Dialogue, Document, Message, Parsed, TokenRow
from finetune_trainer.data.parsing import parse

CALLING = Dialogue(
    source="rows.jsonl",
    row=1,
    tree="t",
    messages=(
        Message(role="user", content="Ulm?"),
        Message(role="assistant", content="", tool_calls=(CALL,), reasoning="Look.", learnt=False),
        Message(role="tool", content="12", name="weather", tool_call_id="c1"),
        Message(role="assistant", content="12 degrees."),
    ),
    tools=(TOOL,),
)
ROWS: list[Parsed] = [
    dialogue("Hi", "Ho"),
    dialogue('quotes " and \\ and\nlines\t\u2028 \x00 \x1f \x7f é 猫 \U0001f600', "Ho", "", "x", system="Be kind."),
    dialogue("Hi", "Ho", ids=("a", "b")),
    CALLING,
    Document(source="rows.jsonl", row=1, tree="t", text='a "text"'),
    TokenRow(source="rows.jsonl", row=1, tree="t", input_ids=(5, 6, 7), supervised=(False, True, True)),
]


@pytest.mark.parametrize("row", ROWS)
def test_the_short_way_gives_what_the_long_way_gives(row: Parsed) -> None:
    assert RowLines().line(row) == json.dumps(row_object(row), ensure_ascii=False) + "\n"


@pytest.mark.parametrize("row", [ROWS[0], CALLING, *ROWS[4:]])
def test_what_is_written_is_read_back(row: Parsed) -> None:
    (again,) = parse([("rows.jsonl", 1, json.loads(RowLines().line(row)))], DataSource(path="./rows.jsonl"))
    assert row_object(again) == row_object(row)  # type: ignore[arg-type]


def test_columns_that_were_met() -> None:
    lines = RowLines()
    lines.line(ROWS[0])
    assert (list(lines.columns.names), lines.columns.are_plain) == (["messages"], True)
    lines.line(ROWS[4])
    assert (list(lines.columns.names), lines.columns.are_plain) == (["messages", "text"], True)
    lines.line(CALLING)
    assert (list(lines.columns.names), lines.columns.are_plain) == (["messages", "text", "tools"], False)


def test_prompts() -> None:
    assert prompt_object(dialogue("Q", "A", "Q2", "A2")) == {"prompt": "Q"}
    assert prompt_object(dialogue("Q", "A", system="S")) == {"prompt": "Q", "system": "S"}
    prompts = Prompts()
    rows = [dialogue("Q", "A"), dialogue("Q", "B"), dialogue("Q", "A", system="S"), ROWS[4]]
    assert [prompts.refusal(row) for row in rows] == [None, "its prompt was met before", None, "no user message to ask with"]
