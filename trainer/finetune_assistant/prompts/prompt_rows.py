"""Rows that are to be answered: a file or a Hub data set with a question, or a dialogue that ends with one, in each row.

In: a name. Out: rows with their messages, or all that is wrong with them, by row number. Models and what becomes of the answers are
unknown here.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.errors import InvalidData
from finetune_api.finetunejob.places import is_hub_place
from finetune_trainer.data.dialogues import InvalidRow, Message
from finetune_trainer.data.splits import SUFFIXES

SAMPLE_PROMPTS: Final = Path(__file__).with_name("sample_prompts.jsonl")
_SHOWN_WRONG: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A row: its number in the file from 1, its fields as they were, and what is asked."""

    number: int
    fields: dict[str, Any]
    messages: tuple[Message, ...]

    @property
    def digest(self) -> str:
        """What identifies the question, whatever else the row holds."""
        return question_digest(self.fields)


def question_digest(fields: dict[str, Any]) -> str:
    """SHA-256 (hex) of what is asked: of `messages`, or else of `prompt`."""
    asked = {"messages": fields["messages"]} if fields.get("messages") else {"prompt": fields.get("prompt")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def read_prompts(name: str, *, split: str = "train", system: str | None = None) -> list[PromptRow]:
    """All rows of a file, or of a Hub data set (org/name). `system` goes before dialogues that have no system message of their own.

    Raises InvalidData, which names the first wrong rows.
    """
    found, wrong, count = [], [], 0
    for _, number, fields in _rows(name, split):
        count += 1
        if not isinstance(fields, dict):
            wrong.append(f"row {number}: {fields.reason}")
            continue
        try:
            messages = asked(fields)
        except InvalidRow as error:
            wrong.append(f"row {number}: {error}")
            continue
        if system is not None and messages[0].role != "system":
            messages = (Message(role="system", content=system), *messages)
        found.append(PromptRow(number=number, fields=fields, messages=messages))
    if wrong:
        more = f" (and {len(wrong) - _SHOWN_WRONG:,} more)" if len(wrong) > _SHOWN_WRONG else ""
        raise InvalidData(f"{name}: {len(wrong):,} of {count:,} rows can't be asked: {'; '.join(wrong[:_SHOWN_WRONG])}{more}; correct them")
    if not found:
        raise InvalidData(f"{name}: no row is in it; give a file with a `prompt` or `messages` in each row")
    return found


def asked(fields: dict[str, Any]) -> tuple[Message, ...]:
    """What a row asks: `messages` where it has them, else `prompt`, a text or a list of messages. Raises InvalidRow.

    >>> [message.content for message in asked({"prompt": "Why?", "kind": "short"})]
    ['Why?']
    """
    from finetune_api.finetunejob import MessageProperties, RoleMapping
    from finetune_trainer.data.messages import check_order, keys_of, read_messages

    value, column = (fields["messages"], "messages") if fields.get("messages") else (fields.get("prompt"), "prompt")
    if value is None:
        raise InvalidRow(f"no `prompt` and no `messages`; it has {', '.join(map(repr, fields)) or 'nothing'}")
    numbers: Sequence[int]
    if isinstance(value, str) and column == "prompt":
        messages, numbers = [Message(role="user", content=value)], [1]
    else:
        messages, numbers = read_messages(value, keys_of("role", "content", MessageProperties(), RoleMapping()), {})
    check_order(messages, numbers)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise InvalidRow(f"the last message of `{column}` is not a user's, so there is nothing to answer")
    return tuple(messages)


def _rows(name: str, split: str) -> Iterator[Any]:
    path = Path(name)
    if path.is_dir():
        raise InvalidData(f"{name} is a folder; name a file in it")
    if path.exists() or not (is_hub_place(name) and name.count("/") == 1) or name.endswith(SUFFIXES):
        from finetune_trainer.data.files import file_rows

        return file_rows(path, name)
    from finetune_api.finetunejob import DataSource
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    return iter(read(DataSource(path=name), split, base=Path(), secrets=Secrets()))
