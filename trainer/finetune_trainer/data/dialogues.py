"""From the rows of a source to dialogues: checked, of one shape, each with the tree that the split never divides.

In: rows of `sources.read`. Out, in the order of the rows: a `Dialogue` for everything that can be learnt from and a `Dropped`
for everything that is not used, with the reason. How each format writes a dialogue is the business of `formats` and `oasst`;
nothing here knows files, tokens or templates.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, Literal

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataFilter, DataSource
from finetune_trainer.data.formats import InvalidRow, Notice, Turn, detected_format, ignore_notice, reader
from finetune_trainer.data.markup import without_markup
from finetune_trainer.data.oasst import NOT_READY, PLACE, FlatMessages, Place, is_ready, tree_paths
from finetune_trainer.data.sources import Row, Unreadable

Role = Literal["system", "user", "assistant", "tool"]
# invalid: the row is wrong and counts against maxInvalidRows. filtered: the row is right, and not wanted.
# trimmed: the dialogue is used, without the user turn that ended it.
Kind = Literal["invalid", "filtered", "trimmed"]
Trailing = Literal["trim", "keep"]

ROLES: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "bing", "bard"), "assistant"),
}
NO_ASSISTANT_TURN = "no assistant turn"
TRAILING_USER_TURN = "trailing user turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """At most one system message, first; then user and assistant in turn, user first; at least one assistant message.

    Answers of tools come between an assistant's calls and its next message. `source` is the file or the Hub id, `row` the row there,
    counted from 1: the line, in JSON lines. `tools`: the JSON schemas of the functions that the assistant could call.
    """

    source: str
    row: int
    tree: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Something of a row that is not used, and why. The reasons of `filtered` and `trimmed` are a few fixed sentences, for counting."""

    source: str
    row: int
    reason: str
    kind: Kind


def parse(
    rows: Iterable[Row],
    source: DataSource,
    *,
    trailing_user_turns: Trailing = "trim",
    notice: Notice = ignore_notice,
) -> Iterator[Dialogue | Dropped]:
    """Every dialogue of `rows`, and everything that is not used. Raises InvalidData if `format: auto` recognises nothing.

    `notice` gets one sentence about each choice made for the user: the format that `auto` chose, markup removed.
    """
    form, rows = _with_format(rows, source, notice)
    if form == "oasst":
        yield from _parse_trees(rows, source, trailing_user_turns)
        return
    read = reader(form, source.columns)
    cleaned = 0
    for where, number, data in rows:
        try:
            if isinstance(data, Unreadable):
                raise InvalidRow(data.reason)
            turns = read(data)
            if form == "sharegpt":
                written, turns = turns, without_markup(turns)
                cleaned += turns is not written
            messages = _messages(turns)
            tree = _tree(data, source.columns.tree, messages)
        except InvalidRow as error:
            yield Dropped(source=where, row=number, reason=str(error), kind="invalid")
        else:
            yield from _usable((where, number), tree, messages, trailing_user_turns)
    if cleaned:
        notice(f"{source.path}: HTML of a web page was turned into text in {cleaned} conversations")


def _with_format(rows: Iterable[Row], source: DataSource, notice: Notice) -> tuple[str, Iterator[Row]]:
    """The format of `rows`, and all of them again. `auto` looks at the first row that can be read."""
    remaining = iter(rows)
    if source.format != "auto":
        return source.format, remaining
    seen: list[Row] = []
    for row in remaining:
        seen.append(row)
        data = row[2]
        if not isinstance(data, Unreadable):
            form = detected_format(data, source.columns)
            if form is None:
                raise InvalidData(
                    f"{row[0]} row {row[1]}: no known format has the columns {', '.join(map(repr, data)) or '(none)'}; "
                    "set the source's format (messages, prompt-completion, oasst, sharegpt, alpaca or dolly) and columns"
                )
            notice(f"{source.path}: format {form}, recognised from row {row[1]}")
            return form, chain(seen, remaining)
    return "messages", iter(seen)  # no row could be read: each is reported as it is


def _parse_trees(rows: Iterable[Row], source: DataSource, trailing: Trailing) -> Iterator[Dialogue | Dropped]:
    """Dialogues of OASST rows: those with a `prompt` are trees; the others are messages, put together after the last row."""
    flat = FlatMessages()
    for where, number, data in rows:
        try:
            if isinstance(data, Unreadable):
                raise InvalidRow(data.reason)
            if "prompt" not in data:
                flat.add((where, number), data)
                continue
            if "message_tree_id" not in data:
                raise InvalidRow("no column 'message_tree_id'")
        except InvalidRow as error:
            yield Dropped(source=where, row=number, reason=str(error), kind="invalid")
        else:
            tree, state = str(data["message_tree_id"]), data.get("tree_state")
            yield from _tree_dialogues((where, number), tree, state, data["prompt"], source.filter, trailing)
    for tree, roots, unreachable in flat.joined():
        for root in roots:
            yield from _tree_dialogues(root[PLACE], tree, root["tree_state"], root, source.filter, trailing)
        for node in unreachable:
            reason = f"parent_id {node['parent_id']} leads to no first message of its tree"
            yield Dropped(source=node[PLACE][0], row=node[PLACE][1], reason=reason, kind="invalid")


def _tree_dialogues(place: Place, tree: str, state: Any, root: Any, wanted: DataFilter, trailing: Trailing) -> Iterator[Dialogue | Dropped]:
    """The paths of one tree; one wrong message that is wanted makes the whole tree invalid."""
    where, number = place
    if not is_ready(state):
        yield Dropped(source=where, row=number, reason=NOT_READY, kind="filtered")
        return
    try:
        paths = [(path, () if path.unwanted else _messages(path.turns)) for path in tree_paths(root, place, wanted)]
    except InvalidRow as error:
        yield Dropped(source=where, row=number, reason=str(error), kind="invalid")
        return
    for path, messages in paths:
        if path.unwanted:
            yield Dropped(source=path.place[0], row=path.place[1], reason=path.unwanted, kind="filtered")
        else:
            yield from _usable(path.place, tree, messages, trailing)


def _usable(place: Place, tree: str, messages: tuple[Message, ...], trailing: Trailing) -> Iterator[Dialogue | Dropped]:
    """The dialogue, or why there is none."""
    where, number = place
    last = next((index for index in reversed(range(len(messages))) if messages[index].role == "assistant"), None)
    if last is None:
        yield Dropped(source=where, row=number, reason=NO_ASSISTANT_TURN, kind="filtered")
        return
    if trailing == "trim" and last + 1 < len(messages):
        yield Dropped(source=where, row=number, reason=TRAILING_USER_TURN, kind="trimmed")
        messages = messages[: last + 1]
    yield Dialogue(source=where, row=number, tree=tree, messages=messages)


def _messages(turns: list[Turn]) -> tuple[Message, ...]:
    """The turns, checked: known roles, a system message only first, user and assistant in turn, no empty text. Raises InvalidRow."""
    messages: list[Message] = []
    expected: Role = "user"
    for number, (written, content, identity) in enumerate(turns, start=1):
        role = _role(written, number)
        if not isinstance(content, str):
            raise InvalidRow(f"message {number} ({role}): the text is of type {type(content).__name__}, not a string")
        if role == "system":
            if number > 1:
                raise InvalidRow(f"message {number}: a system message may only come first")
        elif role != expected:
            raise InvalidRow(_out_of_turn(number, role, messages))
        elif not content or content.isspace():
            raise InvalidRow(f"message {number} ({role}): the text is empty")
        else:
            expected = "assistant" if role == "user" else "user"
        if not _is_unicode(content):
            raise InvalidRow(f"message {number} ({role}): half of a surrogate pair, which is no character, is in the text")
        messages.append(Message(role=role, content=content, id=identity))
    return tuple(messages)


def _role(written: Any, number: int) -> Role:
    role = ROLES.get(written) or ROLES.get(written.strip().lower()) if isinstance(written, str) else None
    if role is None:
        raise InvalidRow(f"message {number}: unknown role {written!r}; known are {', '.join(ROLES)}")
    return role


def _out_of_turn(number: int, role: Role, before: list[Message]) -> str:
    if before and before[-1].role == role:
        return f"message {number}: two {role} turns in a row"
    return f"message {number}: the conversation begins with an {role} turn; it must begin with a user turn"


def _is_unicode(text: str) -> bool:
    """False for lone surrogates: JSON can escape them, no tokenizer can take them."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tree(data: dict[str, Any], column: str | None, messages: tuple[Message, ...]) -> str:
    """The value of the tree column, else the row's own tree id, else a digest of the first user message."""
    if column is not None and data.get(column) is None:
        raise InvalidRow(f"no value in column {column!r} (see columns.tree)")
    named = data.get(column or "message_tree_id")
    if named is not None:
        return str(named)
    first = next((message.content for message in messages if message.role == "user"), "")
    return blake2b(first.encode(), digest_size=16).hexdigest()
