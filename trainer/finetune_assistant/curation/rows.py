"""Rows as they are written: in the words of Transformers and TRL, as objects and as lines of JSON.

In: parsed rows. Out: `{"messages": [...], "tools": [...]}`, `{"text": ...}`, tokens as they are, or of prompts only `{"prompt": ...}`; what
a row hasn't is left out. Where the lines go is the business of `writing`.
"""

import json
from hashlib import blake2b
from json.encoder import encode_basestring
from typing import Any, Final

from finetune_assistant.curation.writing import Columns
from finetune_trainer.data.dialogues import Dialogue, Document, Message, Parsed
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

PROMPT_MET: Final = "its prompt was met before"
NO_PROMPT: Final = "no user message to ask with"
# Of a message that is a role and a text: what follows the two, but for the identity, which is not written.
_NOTHING_ELSE: Final = (None, (), None, None, None)


class RowLines:
    """Makes lines of rows, and notes the columns that they have."""

    def __init__(self) -> None:
        self.columns = Columns()

    def line(self, item: Parsed) -> str:
        """`row_object` as a line of JSON; the short way of plain dialogues gives the same in half the time."""
        if isinstance(item, Dialogue) and not item.tools and _has_plain_messages(item):
            self.columns.names["messages"] = None
            messages = [f'{{"role": "{message[0]}", "content": {encode_basestring(message[1])}}}' for message in item.messages]
            return f'{{"messages": [{", ".join(messages)}]}}\n'
        self.columns.are_plain = self.columns.are_plain and not isinstance(item, Dialogue)
        return self.line_of(row_object(item))

    def line_of(self, row: dict[str, Any]) -> str:
        """Any row as a line of JSON."""
        self.columns.names.update(dict.fromkeys(row))
        return f"{json.dumps(row, ensure_ascii=False)}\n"


class Prompts:
    """What users ask first, each once: the paths of a tree ask the same. Remembers eight bytes of each prompt."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def refusal(self, item: Parsed) -> str | None:
        """Why a row gives no prompt."""
        row = prompt_object(item)
        if row is None:
            return NO_PROMPT
        text = "\0".join(row.values())
        key = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
        if key in self._met:
            return PROMPT_MET
        self._met.add(key)
        return None


def row_object(item: Parsed) -> dict[str, Any]:
    """A row in the words of Transformers and TRL; what it hasn't is left out."""
    if isinstance(item, Dialogue):
        messages = [_message_object(message) for message in item.messages]
        return {"messages": messages} | ({"tools": list(item.tools)} if item.tools else {})
    if isinstance(item, Document):
        return {"text": item.text}
    labels = [token if learnt else IGNORE_INDEX for token, learnt in zip(item.input_ids, item.supervised, strict=True)]
    return {"input_ids": list(item.input_ids), "labels": labels}


def prompt_object(item: Parsed) -> dict[str, str] | None:
    """The first user message as `prompt`, and the system message before it as `system`; None where nobody asks anything."""
    if not isinstance(item, Dialogue):
        return None
    asked = next((message.content for message in item.messages if message.role == "user"), None)
    first = item.messages[0]
    return None if asked is None else {"prompt": asked} | ({"system": first.content} if first.role == "system" else {})


def _has_plain_messages(dialogue: Dialogue) -> bool:
    """Whether each message is a role and a text, and nothing else."""
    return all([message[2:7] == _NOTHING_ELSE for message in dialogue.messages])


def _message_object(message: Message) -> dict[str, Any]:
    beside = {
        "reasoning_content": message.reasoning,
        "tool_calls": list(message.tool_calls) or None,
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "train": message.learnt,
    }
    return {"role": message.role, "content": message.content} | {name: value for name, value in beside.items() if value is not None}
