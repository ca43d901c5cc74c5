"""Rows become dialogues: every format, every way a row can be wrong, and what is reported about rows that are not used."""

from typing import Any

import pytest

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import Columns, DataSource
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.raw_rows import Row, Unreadable


def rows(*data: Any) -> list[Row]:
    return [("data.jsonl", number, value) for number, value in enumerate(data, start=1)]


def parsed(*data: Any, format: str = "messages", keep: bool = False, **columns: str) -> list[Dialogue | Dropped]:  # noqa: A002
    source = DataSource.model_validate({"path": "./data.jsonl", "format": format, "columns": columns})
    return list(parse(rows(*data), source, trailing_user_turns="keep" if keep else "trim"))


def turns(item: Dialogue | Dropped) -> list[tuple[str, str]]:
    assert isinstance(item, Dialogue), item
    return [(message.role, message.content) for message in item.messages]


def reason(item: Dialogue | Dropped) -> str:
    assert isinstance(item, Dropped), item
    assert item.kind == "invalid"
    return item.reason


def chat(*texts: str, system: str | None = None) -> dict[str, Any]:
    """A row of `messages` whose texts are the user's and the assistant's in turn."""
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"messages": messages if system is None else [{"role": "system", "content": system}, *messages]}


QA = [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("messages", chat("Q", "A")),
        ("messages", {"conversations": chat("Q", "A")["messages"]}),
        ("messages", {"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}}),
        ("prompt-completion", {"prompt": "Q", "completion": "A"}),
        ("prompt-completion", {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}),
        ("sharegpt", {"id": "1", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}),
        ("alpaca", {"instruction": "Q", "output": "A"}),
        ("dolly", {"instruction": "Q", "context": "", "response": "A", "category": "qa"}),
        ("oasst", {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "Q", "replies": [{"role": "assistant", "text": "A"}]}}),
    ],
)
def test_each_format_by_name_and_recognised(format: str, row: dict[str, Any]) -> None:  # noqa: A002
    notices: list[str] = []
    automatic = list(parse(rows(row), DataSource(path="./data.jsonl"), notice=notices.append))
    assert [turns(item) for item in parsed(row, format=format)] == [QA]
    assert [turns(item) for item in automatic] == [QA]
    assert notices == [f"./data.jsonl: format {format}, recognised from row 1"]


def test_additional_input_follows_the_instruction() -> None:
    alpaca = parsed({"instruction": "Add.", "input": "2 3", "output": "5"}, format="alpaca")
    dolly = parsed({"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}, format="dolly")
    assert turns(alpaca[0])[0] == ("user", "Add.\n\n2 3")
    assert turns(dolly[0])[0] == ("user", "Who?\n\nAda wrote it.")


def test_columns_of_another_name() -> None:
    row = {"question": "Q", "reply": "A", "hint": "H", "persona": "S", "topic": 7}
    names: dict[str, Any] = {"prompt": "question", "completion": "reply", "context": "hint", "system": "persona", "tree": "topic"}
    (item,) = parsed(row, format="prompt-completion", **names)
    assert turns(item) == [("system", "S"), ("user", "Q\n\nH"), ("assistant", "A")]
    assert isinstance(item, Dialogue)
    assert item.tree == "7"
    assert turns(parsed({"dialog": chat("Q", "A")["messages"]}, messages="dialog")[0]) == QA


def test_mapped_columns_are_recognised() -> None:
    source = DataSource(path="./x.jsonl", columns=Columns(prompt="question", completion="reply"))
    notices: list[str] = []
    assert turns(next(parse(rows({"question": "Q", "reply": "A"}), source, notice=notices.append))) == QA
    assert "format prompt-completion" in notices[0]


def test_an_empty_system_column_adds_no_turn() -> None:
    assert turns(parsed({"prompt": "Q", "completion": "A", "s": ""}, format="prompt-completion", system="s")[0]) == QA


def test_texts_are_kept_exactly() -> None:
    assert turns(parsed(chat("  Q\n", "\tA \n"))[0]) == [("user", "  Q\n"), ("assistant", "\tA \n")]


def test_other_names_of_roles() -> None:
    names = [("Human", "GPT"), ("prompter", "bot"), ("user", " ASSISTANT")]
    for user, assistant in names:
        row = {"messages": [{"role": user, "content": "Q"}, {"role": assistant, "content": "A"}]}
        assert turns(parsed(row)[0]) == QA


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "Q"), ("oracle", "A")], "message 2: unknown role 'oracle'; known are system, developer, user"),
        ([("user", "Q"), ("tool", "A")], "message 2: an answer of a tool, and no assistant turn before it"),
        ([("user", "Q"), (None, "A")], "message 2: unknown role None"),
        ([("user", "Q"), ("assistant", "A"), ("system", "S")], "message 3: a system message may only come first"),
        ([("system", "S"), ("system", "S")], "message 2: a system message may only come first"),
        ([("assistant", "A")], "message 1: the conversation begins with an assistant turn; it must begin with a user turn"),
        ([("system", "S"), ("assistant", "A")], "message 2: the conversation begins with an assistant turn"),
        ([("user", "Q"), ("user", "Q")], "message 2: two user turns in a row"),
        ([("user", "Q"), ("assistant", "A"), ("assistant", "A")], "message 3: two assistant turns in a row"),
        ([("user", " \n"), ("assistant", "A")], "message 1 (user): the text is empty"),
        ([("user", "Q"), ("assistant", "")], "message 2 (assistant): the text is empty"),
        ([("user", "Q"), ("assistant", None)], "message 2 (assistant): the text is of type NoneType, not a string"),
        ([("user", "Q"), ("assistant", ["A"])], "message 2 (assistant), part 1 is of type str, not an object with 'type' and 'text'"),
        ([("user", "Q"), ("assistant", "A \ud83d")], "message 2 (assistant): half of a surrogate pair"),
    ],
)
def test_wrong_messages(messages: list[tuple[Any, Any]], expected: str) -> None:
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    (item,) = parsed(row)
    assert reason(item).startswith(expected)
    assert (item.source, item.row) == ("data.jsonl", 1)


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("messages", {"text": "x"}, "no column 'messages'; the row has 'text' (see columns.messages)"),
        ("messages", {"messages": "x"}, "messages must be a list of objects with 'role' and 'content', not 'x'"),
        ("messages", {"messages": None}, "messages must be a list of objects"),
        ("messages", {"messages": []}, "no message at all (column 'messages')"),
        ("messages", {"messages": [{"role": "user"}]}, "message 1 (user): no 'content'; it has 'role' (column 'messages')"),
        ("messages", {"messages": [7]}, "message 1 is of type int, not an object with 'role' and 'content'"),
        ("messages", {"messages": {"role": ["user"], "content": []}}, "the messages are columns of different lengths"),
        ("sharegpt", chat("Q", "A"), "no column 'conversations'"),
        ("alpaca", {"instruction": "Q"}, "no column 'output'; the row has 'instruction' (see columns.completion)"),
        ("dolly", {}, "no column 'instruction'; the row has none"),
        ("prompt-completion", {"prompt": "Q", "completion": None}, "message 2 (assistant): the text is of type NoneType"),
        ("oasst", {"prompt": {}}, "no column 'message_tree_id'"),
        ("oasst", {"text": "x"}, "no message_tree_id and no message_id and no role"),
        ("oasst", {"message_tree_id": "t", "prompt": "x"}, "message 1 of a path is not an object with 'role' and 'text'"),
    ],
)
def test_wrong_columns(format: str, row: dict[str, Any], expected: str) -> None:  # noqa: A002
    assert reason(parsed(row, format=format)[0]).startswith(expected)


def test_a_missing_mapped_column_is_an_error_of_the_row() -> None:
    row = {"prompt": "Q", "completion": "A"}
    assert "no value in column 'topic'" in reason(parsed(row, format="prompt-completion", tree="topic")[0])
    assert "no column 'persona'" in reason(parsed(row, format="prompt-completion", system="persona")[0])
    assert "no column 'hint'" in reason(parsed(row, format="prompt-completion", context="hint")[0])


def test_a_wrong_row_does_not_stop_the_others() -> None:
    items = parsed(chat("Q", "A"), Unreadable("not JSON: at column 3"), {"text": 1}, chat("Q", "A"))
    assert [type(item) for item in items] == [Dialogue, Dropped, Dropped, Dialogue]
    assert [item.row for item in items] == [1, 2, 3, 4]
    assert reason(items[1]) == "not JSON: at column 3"


def test_an_unknown_schema_is_refused_with_its_columns() -> None:
    with pytest.raises(InvalidData, match=r"data\.jsonl row 1: no known format has the columns 'text', 'label'; set the source's format"):
        list(parse(rows({"text": "x", "label": 1}), DataSource(path="./data.jsonl")))


def test_recognition_passes_over_rows_that_can_not_be_read() -> None:
    source = DataSource(path="./data.jsonl")
    items = list(parse(rows(Unreadable("not JSON"), chat("Q", "A")), source))
    assert [type(item) for item in items] == [Dropped, Dialogue]
    assert reason(next(parse(rows(Unreadable("not JSON")), source))) == "not JSON"


def test_a_trailing_user_turn_is_trimmed_and_reported_or_kept() -> None:
    row = chat("Q", "A", "thanks")
    trimmed, dialogue = parsed(row)
    assert turns(dialogue) == QA
    assert trimmed == Dropped(source="data.jsonl", row=1, reason="trailing user turn", kind="trimmed")
    (kept,) = parsed(row, keep=True)
    assert turns(kept) == [*QA, ("user", "thanks")]


@pytest.mark.parametrize("row", [chat("Q"), chat("Q", system="S"), chat(system="S")])
@pytest.mark.parametrize("keep", [True, False])
def test_without_an_assistant_turn_a_row_is_filtered_not_wrong(row: dict[str, Any], keep: bool) -> None:
    assert parsed(row, keep=keep) == [Dropped(source="data.jsonl", row=1, reason="no assistant turn", kind="filtered")]


def test_a_leading_system_message_is_kept_even_empty() -> None:
    assert turns(parsed(chat("Q", "A", system=""))[0]) == [("system", ""), *QA]


def test_rows_with_the_same_first_question_are_one_tree() -> None:
    items = parsed(chat("Q", "A"), chat("Q", "B", "R", "C", system="S"), chat("other", "A"))
    trees = [item.tree for item in items if isinstance(item, Dialogue)]
    assert trees[0] == trees[1] != trees[2]


def test_a_tree_id_of_the_row_is_used() -> None:
    (item,) = parsed(chat("Q", "A") | {"message_tree_id": "t-1"})
    assert isinstance(item, Dialogue)
    assert item.tree == "t-1"
