"""What the rows of every source become: dialogues, documents and rows that are tokens already; and what is not used of them.

In and out: nothing; these are the words that `parsing` fills and that templates, preparation and the preview read.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
Tool = dict[str, Any]  # {"type": "function", "function": {"name": str, "parameters": JSON schema, ...}}
# invalid: the row is wrong and counts against maxInvalidRows. filtered: the row is right, and not wanted.
# trimmed: the dialogue is used, without turns before its first or after its last exchange.
Kind = Literal["invalid", "filtered", "trimmed"]
Place = tuple[str, int]  # source and row


class InvalidRow(Exception):
    """A row that can't become a dialogue. Inside the parsers only: it ends as a `Dropped` with this reason."""


# Of these two millions are made: tuples, for a frozen dataclass takes several times as long to make.
class Message(NamedTuple):
    """One turn. `id` is the identity of a message that several paths of an OASST tree share.

    `tool_calls` and `reasoning` belong to assistants, `name` and `tool_call_id` to answers of tools; both are rendered by a model's own
    template, in the words of Transformers (`tool_calls`, `reasoning_content`). A call is {"type": "function", "function": {"name": str,
    "arguments": object}} with an optional "id". `learnt`: what the row itself says of an assistant message; None leaves it to the masking.
    """

    role: Role
    content: str  # may be empty beside tool calls
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    learnt: bool | None = None
    id: str | None = None


class Dialogue(NamedTuple):
    """At most one system message, first; then user and assistant in turn, user first; at least one assistant message.

    Answers of tools come between an assistant's calls and its next message. `source` is the file or the Hub id, `row` the row there,
    counted from 1: the line, in JSON lines. `tools`: the JSON schemas of the functions that the assistant could call. `told`: what else
    the row holds and is not read, for the preview.
    """

    source: str
    row: int
    tree: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text without turns, learnt as a whole."""

    source: str
    row: int
    tree: str
    text: str
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A row that was tokenised elsewhere. `supervised` has one entry for each id: whether it counts in the loss."""

    source: str
    row: int
    tree: str
    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    told: tuple[str, ...] = ()


Parsed = Dialogue | Document | TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Something of a row that is not used, and why. The reasons of `filtered` and `trimmed` are a few fixed sentences, for counting."""

    source: str
    row: int
    reason: str
    kind: Kind
