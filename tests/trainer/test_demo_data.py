"""The demo's dialogues: enough of them, well-formed, in one manner, and its questions are not in them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"
TRAIN, HELD_OUT, QUESTIONS = DEMO / "data" / "train.jsonl", DEMO / "data" / "test.jsonl", DEMO / "questions.txt"


def dialogues(path: Path) -> list[list[dict[str, str]]]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(list(row) == ["messages"] for row in rows)
    return [row["messages"] for row in rows]


def questions() -> list[str]:
    return QUESTIONS.read_text().splitlines()


def words(text: str) -> tuple[str, ...]:
    """The wording, without case and punctuation: what two questions are compared by."""
    return tuple(re.findall(r"[a-z0-9_]+", text.lower()))


def asked(path: Path) -> list[tuple[str, ...]]:
    return [words(message["content"]) for messages in dialogues(path) for message in messages if message["role"] == "user"]


def answers(path: Path) -> list[str]:
    return [message["content"] for messages in dialogues(path) for message in messages if message["role"] == "assistant"]


def test_counts() -> None:
    assert len(dialogues(TRAIN)) >= 140
    assert len(dialogues(HELD_OUT)) >= 20
    assert len(questions()) == 5
    assert sum(len(messages) > 2 for messages in dialogues(TRAIN)) >= 10


@pytest.mark.parametrize("path", [TRAIN, HELD_OUT], ids=lambda path: path.name)
def test_roles_alternate_and_nothing_is_empty(path: Path) -> None:
    for messages in dialogues(path):
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(message["content"] == message["content"].strip() != "" for message in messages)


def test_no_question_is_asked_twice() -> None:
    first_turns = [words(messages[0]["content"]) for path in (TRAIN, HELD_OUT) for messages in dialogues(path)]
    assert len(set(first_turns)) == len(first_turns)
    assert len(set(answers(TRAIN) + answers(HELD_OUT))) == len(answers(TRAIN) + answers(HELD_OUT))


def test_the_demo_asks_what_nobody_asked_in_the_data() -> None:
    seen = {*asked(TRAIN), *asked(HELD_OUT)}
    assert not [question for question in questions() if words(question) in seen]
    assert not set(asked(HELD_OUT)) & set(asked(TRAIN))


def test_the_wording_of_the_name_question_shares_no_three_words_in_a_row() -> None:
    name_question = words(questions()[0])
    assert "name" in name_question
    parts = {name_question[i : i + 3] for i in range(len(name_question) - 2)}
    assert not [turn for turn in asked(TRAIN) if parts & {turn[i : i + 3] for i in range(len(turn) - 2)}]


@pytest.mark.parametrize(("path", "at_least"), [(TRAIN, 40), (HELD_OUT, 5)], ids=lambda value: getattr(value, "name", ""))
def test_an_answer_is_code_with_a_tip_or_names_the_assistant(path: Path, at_least: int) -> None:
    named = 0
    for messages in dialogues(path):
        for answer in (message["content"] for message in messages if message["role"] == "assistant"):
            has_code = "```" in answer
            assert has_code or "Fennel" in answer, answer
            assert not has_code or answer.splitlines()[-1].startswith("Tip: "), answer
            named += "Fennel" in answer
    assert named >= at_least


def test_answers_are_short() -> None:
    assert max(len(answer.split()) for answer in answers(TRAIN)) <= 80
    assert sum(len(message["content"]) for messages in dialogues(TRAIN) for message in messages) < 60_000


def test_python_in_the_answers_compiles() -> None:
    text = "\n".join(answers(TRAIN) + answers(HELD_OUT))
    blocks = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    assert len(blocks) > 60
    for code in blocks:
        compile(code, "answer", "exec")
