"""Rows for tests of parsing: one source, its items, and what is told of them."""

from collections.abc import Iterable
from typing import Any

from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.raw_rows import Row
from finetune_trainer.data.rows import Item

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}


def rows(*data: Any) -> list[Row]:
    return [("data.jsonl", number, value) for number, value in enumerate(data, start=1)]


def parsed(*data: Any, told: list[str] | None = None, refuse_leading: bool = False, **source: Any) -> list[Item]:
    """What rows give; `source` are fields of DataSource, `told` gets the notices."""
    notices: list[str] = [] if told is None else told
    found = DataSource.model_validate({"path": "./data.jsonl", "format": "messages", **source})
    return list(parse(rows(*data), found, leading_assistant_turns="refuse" if refuse_leading else "drop", notice=notices.append))


def dialogue(item: Item) -> Dialogue:
    assert isinstance(item, Dialogue), item
    return item


def the_dialogue(row: Any, told: list[str] | None = None, **source: Any) -> Dialogue:
    """The only thing that a row gives."""
    (item,) = parsed(row, told=told, **source)
    return dialogue(item)


def reason(row: Any, **source: Any) -> str:
    """Why a row is wrong."""
    (item,) = parsed(row, **source)
    assert isinstance(item, Dropped), item
    assert item.kind == "invalid"
    assert (item.source, item.row) == ("data.jsonl", 1)
    return item.reason


def user(content: Any = "Q", **keys: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **keys}


def assistant(content: Any = "A", **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def tool(content: Any = "12 degrees", **keys: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **keys}


def chat(*messages: Any, **columns: Any) -> dict[str, Any]:
    """A row of `messages`: those given, or a question and its answer."""
    return {"messages": list(messages) or [user(), assistant()], **columns}


def turns(items: Iterable[Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in items]
