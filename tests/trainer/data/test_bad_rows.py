"""Kind 2: one bad row is one bad row. It is named (file, row, message number, column), and never ends the job or blames the format."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tests.trainer.data.row_data import assistant, chat, dialogue, parsed, reason, the_dialogue, turns, user

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.data.files import LARGEST_LINE, file_rows
from finetune_trainer.data.formats import NAMES
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.rows import Item

QA = [("user", "Q"), ("assistant", "A")]


def from_file(path: Path, content: str | bytes, **source: Any) -> list[Item]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(parse(file_rows(path, path.name), DataSource(path=f"./{path.name}", **source)))


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"messages": []}, "no message at all (column 'messages')"),
        ({"messages": None}, "messages must be a list of objects with 'role' and 'content', not None (column 'messages')"),
        ({"messages": [None]}, "message 1 is of type NoneType, not an object with 'role' and 'content' (column 'messages')"),
        ({"messages": "Q"}, "messages must be a list of objects with 'role' and 'content', not 'Q' (column 'messages')"),
        ({"messages": 7}, "messages must be a list of objects"),
        ({"messages": {}}, "messages must be a list of objects"),
        ({"messages": [{"from": "human", "value": "Q"}]}, "message 1: no 'role'; it has 'from', 'value' (column 'messages')"),
        ({}, "no column 'messages'; the row has none (see columns.messages)"),
        ({"other": 1}, "no column 'messages'; the row has 'other' (see columns.messages)"),
        ("{broken", "not JSON: "),
        ("[]", "a JSON list, where an object is expected"),
    ],
)
def test_line_1_messages_empty_or_null_lines_2_and_3_good(tmp_path: Path, first: Any, expected: str) -> None:
    bad, *good = from_file(tmp_path / "x.jsonl", lines(first, chat(), chat()))
    assert isinstance(bad, Dropped)
    assert (bad.source, bad.row, bad.kind) == ("x.jsonl", 1, "invalid")
    assert bad.reason.startswith(expected)
    assert [dialogue(item).row for item in good] == [2, 3]


def test_a_file_of_which_no_row_fits_is_taken_by_its_columns() -> None:
    assert reason({"messages": []}, format="auto") == "no message at all (column 'messages')"
    assert reason({"conversations": None}, format="auto").endswith("(column 'conversations')")
    with pytest.raises(InvalidData, match=r"data\.jsonl row 1: no known format has the columns 'a'; set the source's format"):
        parsed({"a": 1}, {"b": 2}, format="auto")


def test_recognition_ends_somewhere() -> None:
    with pytest.raises(InvalidData, match="row 1: no known format"):
        parsed(*[{"a": 1}] * 1000, chat(), format="auto")
    assert len(parsed(*[{"a": 1}] * 999, chat(), format="auto")) == 1000


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        ({"role": "user"}, "message 3 (user): no 'content'; it has 'role' (column 'messages')"),
        ({"role": "user", "text": "Q"}, "message 3 (user): no 'content'; it has 'role', 'text' (column 'messages')"),
        ({"content": "Q"}, "message 3: no 'role'; it has 'content' (column 'messages')"),
        ({}, "message 3: no 'role'; it has nothing (column 'messages')"),
        ("Q", "message 3 is text that is no JSON"),
        (["user", "Q"], "message 3 is of type list, not an object with 'role' and 'content' (column 'messages')"),
        (user(None), "message 3 (user): the text is of type NoneType, not a string (column 'messages')"),
        (user(7), "message 3 (user): the text is of type int, not a string (column 'messages')"),
        (user({"text": "Q"}), "message 3 (user): the text is of type dict, not a string (column 'messages')"),
        (user([["Q"]]), "message 3 (user), part 1 is of type list, not an object with 'type' and 'text'"),
        (
            user([{"type": "image_url", "image_url": {"url": "x"}}]),
            "message 3 (user), part 1 is of type 'image_url'; this trainer learns text",
        ),
        (user([{"type": "text"}]), "message 3 (user), part 1 has no 'text'"),
        (user([{"type": "text", "text": None}]), "message 3 (user), part 1 is of type NoneType, not a string"),
        ({"role": ["user"], "content": "Q"}, "message 3: unknown role ['user']"),
        ({"role": 7, "content": "Q"}, "message 3: unknown role 7"),
        ({"role": {}, "content": "Q"}, "message 3: unknown role {}"),
        ({"role": "system", "content": "S"}, "message 3: a system message may only come first"),
    ],
)
def test_content_key_missing_in_the_third_message_and_other_faults_of_it(third: Any, expected: str) -> None:
    assert reason(chat(user(), assistant(), third, assistant())).startswith(expected)


def test_content_as_a_list_of_text_parts_is_joined() -> None:
    """Kind 3: text parts lose nothing when joined."""
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "you\n"}]
    assert turns(the_dialogue(chat(user(parts), assistant())).messages)[0] == ("user", "Hello you\n")
    assert turns(the_dialogue(chat(user([{"text": "Q"}]), assistant())).messages)[0] == ("user", "Q")


MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([json.dumps(MESSAGES)]),
        pyarrow.array([json.dumps(MESSAGES)], type=pyarrow.large_string()),
        pyarrow.array([json.dumps(MESSAGES).encode()]),
        pyarrow.array([json.dumps(MESSAGES).encode()], type=pyarrow.large_binary()),
        pyarrow.array([[json.dumps(message) for message in MESSAGES]]),
        pyarrow.array([MESSAGES]),
        pyarrow.array([[{key: value.encode() for key, value in message.items()} for message in MESSAGES]]),
        pyarrow.array(
            [MESSAGES], type=pyarrow.large_list(pyarrow.struct({"role": pyarrow.large_string(), "content": pyarrow.large_string()}))
        ),
        pyarrow.array([{"role": ["user", "assistant"], "content": ["Q", "A"]}]),
    ],
    ids=["json", "large json", "json bytes", "large json bytes", "json of each", "structs", "bytes", "large", "columns"],
)
def test_messages_stored_as_a_json_string_in_parquet_or_as_bytes(tmp_path: Path, column: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"messages": column}), tmp_path / "x.parquet")
    (item,) = parse(file_rows(tmp_path / "x.parquet", "x.parquet"), DataSource(path="./x.parquet"))
    assert turns(dialogue(item).messages) == QA


def test_structs_of_parquet_have_nulls_where_a_row_has_no_key(tmp_path: Path) -> None:
    """Arrow gives each struct the keys of all: what is null there is not in the row, in tools and calls either."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    other = {"function": {"name": "g", "arguments": {"b": "x"}}}
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}]
    others = [{"name": "g", "parameters": {"type": "object", "properties": {"b": {"type": "string"}}}}]
    data = [
        chat(user(), {"role": "assistant", "content": None, "tool_calls": [call]}, tools=tools),
        chat(user(), {"role": "assistant", "content": None, "tool_calls": [other]}, tools=others),
        chat(tools=None),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), tmp_path / "x.parquet")
    told: list[str] = []
    items = list(parse(file_rows(tmp_path / "x.parquet", "x"), DataSource(path="./x.parquet"), notice=told.append))
    first, second, third = map(dialogue, items)
    assert first.messages[1].tool_calls[0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert second.messages[1].tool_calls[0]["function"] == {"name": "g", "arguments": {"b": "x"}}
    assert [tool["function"] for tool in (*first.tools, *second.tools)] == [*tools, *others]
    assert (turns(third.messages), third.tools) == (QA, ())
    assert told == ["./x.parquet: format messages, recognised from row 1"]


SHAREGPT = [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


def test_a_sharegpt_dialogue_that_begins_with_gpt() -> None:
    dropped, kept = parsed({"conversations": SHAREGPT}, format="sharegpt")
    assert dropped == Dropped(source="data.jsonl", row=1, reason="leading assistant turn", kind="trimmed")
    assert turns(dialogue(kept).messages) == QA
    row = {"conversations": [{"from": "system", "value": "S"}, *SHAREGPT]}
    assert turns(dialogue(parsed(row, format="sharegpt")[1]).messages) == [("system", "S"), *QA]
    refused = reason({"conversations": SHAREGPT}, format="sharegpt", refuse_leading=True)
    assert refused == "message 1: the conversation begins with an assistant turn; it must begin with a user turn"
    assert "begins with an assistant turn" in reason({"conversations": SHAREGPT[:1]}, format="sharegpt")


def test_a_truncated_last_json_line_is_a_bad_row(tmp_path: Path) -> None:
    good, bad = from_file(tmp_path / "x.jsonl", lines(chat()) + json.dumps(chat())[:-9])
    assert turns(dialogue(good).messages) == QA
    assert isinstance(bad, Dropped)
    assert (bad.row, bad.reason) == (2, "the last line is no complete JSON; the file is cut off: copy it again")


def test_a_byte_order_mark_and_a_byte_that_is_not_utf_8(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + lines(chat()).encode() + lines(chat()).encode().replace(b"Q", b"\xff") + lines(chat()).encode()
    first, bad, third = from_file(tmp_path / "x.jsonl", content)
    assert isinstance(bad, Dropped)
    assert bad.reason.startswith("not UTF-8: byte 0xff")
    assert [dialogue(item).row for item in (first, third)] == [1, 3]


def test_a_huge_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller limit than the real one, that of a line is the same code."""
    assert LARGEST_LINE == 256 * 2**20
    monkeypatch.setattr("finetune_trainer.data.files.LARGEST_LINE", 2**20)
    huge = chat(user("x" * 2**22), assistant())
    first, bad, third = from_file(tmp_path / "x.jsonl", lines(chat(), huge, chat()))
    assert isinstance(bad, Dropped)
    assert (bad.row, bad.reason) == (2, "the line is longer than 1 MiB")
    assert [dialogue(item).row for item in (first, third)] == [1, 3]


JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    float("nan"),
    2**70,
    "",
    " ",
    "x",
    "\ud83d",
    "{}",
    "[]",
    "[1]",
    '{"role": 1}',
    b"x",
    b"\xff",
]
WORDS = ["role", "content", "from", "value", "messages", "conversations", "tools", "tool_calls", "function", "name", "arguments", "user"]
WORDS += [
    "assistant",
    "tool",
    "system",
    "prompt",
    "completion",
    "history",
    "text",
    "input_ids",
    "labels",
    "type",
    "function_call",
    "weight",
]
WORDS += ["message_tree_id", "message_id", "parent_id", "replies", "instruction", "output", "response", "attention_mask", "train", "lang"]


def junk(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 4 or kind < 0.3:
        return draw.choice(JUNK)
    if kind < 0.4:
        return draw.choice(WORDS)
    if kind < 0.65:
        return [junk(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(WORDS): junk(draw, depth + 1) for _ in range(draw.randrange(5))}


def damaged(draw: random.Random, value: Any) -> Any:
    """A good row with something in it replaced."""
    if draw.random() < 0.15:
        return junk(draw, 3)
    if isinstance(value, dict):
        return {key: damaged(draw, inner) for key, inner in value.items()}
    return [damaged(draw, inner) for inner in value] if isinstance(value, list) else value


GOOD: dict[str, dict[str, Any]] = {
    "messages": chat(
        user(),
        assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}], train=True),
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        assistant(reasoning_content="R"),
        tools=[{"name": "f"}],
        system="S",
    ),
    "sharegpt": {"conversations": SHAREGPT, "system": "S", "tools": "[]"},
    "prompt-completion": {"prompt": "Q", "completion": "A", "history": [["Q", "A"]], "label": True, "reasoning": "R"},
    "alpaca": {"instruction": "Q", "input": "I", "output": "A", "history": [["Q", "A"]]},
    "dolly": {"instruction": "Q", "context": "C", "response": "A"},
    "oasst": {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "Q", "replies": [{"role": "assistant", "text": "A"}]}},
    "text": {"text": "words"},
    "tokenized": {"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]},
}


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_junk_never_raises_and_each_row_is_accounted_for(form: Any, seed: int) -> None:
    draw = random.Random(f"{form} {seed}")
    data = [row if isinstance(row := damaged(draw, GOOD[form]), dict) else {"x": row} for _ in range(150)]
    data += [row if isinstance(row := junk(draw), dict) else {"x": row} for _ in range(150)]
    items = parsed(*data, GOOD[form], format=form)
    assert any(isinstance(item, Dropped) and item.kind == "invalid" for item in items)
    assert not isinstance(items[-1], Dropped)
    numbers = {item.row for item in items}
    # Messages of a tree that come one a row are put together at the end, and a tree may have many paths.
    assert numbers <= set(range(1, len(data) + 2))
    if form != "oasst":
        assert numbers == set(range(1, len(data) + 2))
    for item in items:
        if isinstance(item, Dropped):
            assert item.reason
            item.reason.encode()
        elif isinstance(item, Dialogue):
            assert any(message.role == "assistant" for message in item.messages)
            json.dumps([item.tools, [message.tool_calls for message in item.messages]], allow_nan=False).encode()
            " ".join(f"{message.content}{message.reasoning}{message.name}{message.tool_call_id}" for message in item.messages).encode()


def test_junk_is_recognised_or_refused_but_nothing_else() -> None:
    refused = []
    for seed in range(300):
        draw = random.Random(seed)
        data = [row if isinstance(row := junk(draw), dict) else {"x": row} for _ in range(3)]
        try:
            parsed(*data, format="auto")
        except InvalidData as error:
            refused.append(str(error))
    assert 0 < len(refused) < 300
    assert all("data.jsonl row 1: " in message for message in refused)


@pytest.mark.parametrize("flagged", [False, True])
def test_a_dialogue_of_8_000_exchanges_is_read_in_time_that_grows_with_its_text(flagged: bool) -> None:
    """Kind 7, this side of templates: 0.1 s here; a cost that grows with the square would be minutes."""
    keys: dict[str, Any] = {"train": True, "reasoning_content": "R"} if flagged else {}
    row = chat(*[message for _ in range(8000) for message in (user(), assistant(**keys))])
    start = time.process_time()
    assert len(the_dialogue(row).messages) == 16_000
    assert time.process_time() - start < 1.5
