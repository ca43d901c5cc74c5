"""Bounds on the length of rows: both ends belong to them."""

import pytest
from tests.assistant.curation.rows import dialogue

from finetune_assistant.curation.filters import Lengths
from finetune_trainer.data.dialogues import Dialogue, Message

LONG = dialogue("12345", "12345", "12345", "12345", system="not counted")


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({}, None),
        ({"min_turns": 4, "max_turns": 4, "min_characters": 20, "max_characters": 20}, None),
        ({"min_turns": 5}, "fewer than 5 turns"),
        ({"max_turns": 3}, "more than 3 turns"),
        ({"min_characters": 21}, "fewer than 21 characters"),
        ({"max_characters": 19}, "more than 19 characters"),
    ],
)
def test_bounds(bounds: dict[str, int], said: str | None) -> None:
    assert Lengths(**bounds).refusal(LONG) == said


def test_answers_of_tools_are_no_turns_but_their_text_counts() -> None:
    messages = (
        Message(role="user", content="ab"),
        Message(role="assistant", content="", tool_calls=({"id": "1"},)),
        Message(role="tool", content="cd"),
        Message(role="assistant", content="ef"),
    )
    called = Dialogue(source="x", row=1, tree="t", messages=messages)
    assert Lengths(max_turns=3, max_characters=6).refusal(called) is None
    assert Lengths(max_characters=5).refusal(called) == "more than 5 characters"


def test_tokens() -> None:
    assert Lengths(max_tokens=8).refusal_of_tokens(8) is None
    assert Lengths(max_tokens=8).refusal_of_tokens(9) == "more than 8 tokens"
    assert not Lengths(max_tokens=8).are_any
