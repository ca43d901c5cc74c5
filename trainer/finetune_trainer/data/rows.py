"""One row that is one dialogue, document or list of tokens, with what its other columns mean for it.

In: rows of one source and its format. Out: for each what it gives and what of it is not used; at the end sentences about what was met.
Rows with the same columns are looked at by one `Shape`, so that plain rows cost no more than their messages.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

from finetune_api.finetunejob import DataSource
from finetune_trainer.data.dialogues import Dialogue, Document, Dropped, InvalidRow, Message, Parsed, Place, TokenRow, Tool
from finetune_trainer.data.formats import MULTI_TURN, history_of, messages_column, own_columns, reader, value_of
from finetune_trainer.data.markup import without_markup
from finetune_trainer.data.meanings import Shape, says_nothing, shape_of
from finetune_trainer.data.messages import Told, check_order, without_leading_answers
from finetune_trainer.data.raw_rows import Row, Unreadable
from finetune_trainer.data.tokens import document_of, tokens_of
from finetune_trainer.data.tools import tools_of
from finetune_trainer.data.values import text_of

Trailing = Literal["trim", "keep"]
Leading = Literal["drop", "refuse"]
Item = Parsed | Dropped

NO_ASSISTANT_TURN: Final = "no assistant turn"
TRAILING_USER_TURN: Final = "trailing user turn"
TRAILING_ANSWER_OF_A_TOOL: Final = "trailing answer of a tool"
LEADING_ASSISTANT_TURN: Final = "leading assistant turn"
OTHER_LANGUAGE: Final = "the row is in another language"
_REMEMBERED: Final = 1000  # shapes of rows
_NAMED: Final = 20  # columns and sentences in notices


@dataclass(slots=True)
class _Seen:
    """A shape of rows, the sentence about its columns that are not read, and how many rows had it."""

    shape: Shape
    not_read: tuple[str, ...]
    rows: int = 0


class RowParser:
    """Parses rows one by one; remembers what has to be told about all of them, which rows of junk must not make too much."""

    def __init__(self, form: str, source: DataSource, leading: Leading, trailing: Trailing) -> None:
        self._form, self._source, self._leading, self._trailing = form, source, leading, trailing
        self._read = reader(form, source) if form not in ("text", "tokenized") else None
        self._own = own_columns(form, source.columns)
        self._languages = frozenset(source.filter.languages)
        self._shapes: dict[tuple[str, ...], _Seen] = {}
        self._told: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._cleaned = 0

    def items(self, row: Row) -> list[Item]:
        """What a row gives, after what is not used of it."""
        where, number, data = row
        try:
            if isinstance(data, Unreadable):
                raise InvalidRow(data.reason)
            return self._items((where, number), data)
        except InvalidRow as error:
            return [Dropped(source=where, row=number, reason=str(error), kind="invalid")]

    def notices(self) -> list[str]:
        """A sentence about each thing that rows hold and that is not read, or is read though the format has no place for it."""
        self._forget_shapes()
        name = self._source.path
        found = [f"{name}: {text} ({count:,} rows)" for text, count in self._told.most_common(_NAMED)]
        if self._unread:
            columns = ", ".join(repr(column) for column, _ in self._unread.most_common(_NAMED))
            more = f" and {len(self._unread) - _NAMED:,} more" if len(self._unread) > _NAMED else ""
            found.append(f"{name}: columns that are not read: {columns}{more} ({max(self._unread.values()):,} rows)")
        if self._cleaned:
            found.append(f"{name}: HTML of a web page was turned into Markdown in {self._cleaned:,} conversations (html: keep leaves it)")
        return found

    def _items(self, place: Place, data: dict[str, Any]) -> list[Item]:
        seen = self._seen(data)
        shape = seen.shape
        told: Told = {}
        if not shape.plain:
            _check_columns(shape, data, told)
        if self._languages and _language(shape, data) not in self._languages:
            return [Dropped(source=place[0], row=place[1], reason=OTHER_LANGUAGE, kind="filtered")]
        if self._read is None:
            items: list[Item] = [self._without_turns(place, data, told, seen.not_read)]
        else:
            messages, numbers = self._read(data, told)
            tools: tuple[Tool, ...] = ()
            if not shape.plain or self._source.columns.system or self._source.columns.tools:
                messages, numbers = self._with_context(shape, data, messages, numbers, told)
                tools = self._tools(shape, data)
            items, used = self._in_order(place, messages, numbers)
            tree = _named_tree(data, self._source.columns.tree) or _first_question(used)
            items += usable(place, tree, used, self._trailing, tools, (*told, *seen.not_read) if told else seen.not_read)
        if told:
            self._told.update(told.keys() if len(self._told) < _REMEMBERED else told.keys() & self._told.keys())
        return items

    def _seen(self, data: dict[str, Any]) -> _Seen:
        """What the columns of a row are for."""
        names = tuple(data)
        seen = self._shapes.get(names)
        if seen is None:
            own = self._own
            if self._form in MULTI_TURN and (column := messages_column(self._form, self._source.columns, data)) is not None:
                own |= {column}
            shape = shape_of(names, own, self._form)
            not_read = f"columns that are not read: {', '.join(map(repr, shape.unread[:_NAMED]))}"
            seen = _Seen(shape, (not_read,) if shape.unread else ())
            if len(self._shapes) >= _REMEMBERED:
                self._forget_shapes()
            self._shapes[names] = seen
        seen.rows += 1
        return seen

    def _forget_shapes(self) -> None:
        """Count the columns of shapes; rows of ever new shapes must not fill the memory."""
        for seen in self._shapes.values():
            for column in seen.shape.unread if len(self._unread) < _REMEMBERED else ():
                self._unread[column] += seen.rows
        self._shapes.clear()

    def _with_context(
        self, shape: Shape, data: dict[str, Any], messages: list[Message], numbers: Sequence[int], told: Told
    ) -> tuple[list[Message], Sequence[int]]:
        """With what stands in other columns: a system message, earlier turns, reasoning. They have no number in the row."""
        before = self._system(shape, data, messages, told)
        history = shape.used.get("history")
        if history is not None and not says_nothing(data[history]):
            before += history_of(data[history], history)
            told[f"column {history!r} is read as earlier turns"] = None
        reasoning = shape.used.get("reasoning")
        if reasoning is not None and not says_nothing(data[reasoning]) and messages and messages[-1].role == "assistant":
            messages = [*messages[:-1], _with_reasoning(messages[-1], data[reasoning], reasoning)]
            told[f"column {reasoning!r} is read as the reasoning of the answer"] = None
        return [*before, *messages], [*range(1 - len(before), 1), *numbers]

    def _system(self, shape: Shape, data: dict[str, Any], messages: list[Message], told: Told) -> list[Message]:
        """The system message of a column. A dialogue's own comes first, unless the job names the column."""
        named = self._source.columns.system
        column = named or shape.used.get("system")
        value = None if column is None else value_of(data, column, "columns.system")
        if column is None or says_nothing(value):
            return []
        text = text_of(value, f"column {column!r}")
        if named is None and messages and messages[0].role == "system":
            if messages[0].content != text:
                told[f"column {column!r} is not read: the dialogue has a system message of its own"] = None
            return []
        if named is None:
            told[f"column {column!r} is read as the system message"] = None
        return [Message(role="system", content=text)]

    def _tools(self, shape: Shape, data: dict[str, Any]) -> tuple[Tool, ...]:
        named = self._source.columns.tools
        column = named or shape.used.get("tools")
        value = None if column is None else value_of(data, column, "columns.tools")
        return () if column is None or says_nothing(value) else tools_of(value, column)

    def _in_order(self, place: Place, messages: list[Message], numbers: Sequence[int]) -> tuple[list[Item], tuple[Message, ...]]:
        """The messages from the first user turn on, checked, as text; and what is left out before it."""
        dropped: list[Item] = []
        if self._leading == "drop" and _starts_late(messages):
            kept, kept_numbers = without_leading_answers(messages, numbers)
            if len(kept) < len(messages):
                dropped.append(Dropped(source=place[0], row=place[1], reason=LEADING_ASSISTANT_TURN, kind="trimmed"))
            messages, numbers = kept, kept_numbers
        check_order(messages, numbers)
        if self._form == "sharegpt" and self._source.html != "keep":
            written, messages = messages, without_markup(messages, self._source.html)
            self._cleaned += messages is not written
        return dropped, tuple(messages)

    def _without_turns(self, place: Place, data: dict[str, Any], told: Told, not_read: tuple[str, ...]) -> Document | TokenRow:
        """A row of `text` or `tokenized`."""
        named = _named_tree(data, self._source.columns.tree)
        where, number = place
        if self._form == "text":
            text = document_of(data, self._source.columns)
            return Document(source=where, row=number, tree=named or _digest(text.encode()), text=text, told=(*told, *not_read))
        ids, supervised = tokens_of(data, told)
        tree = named or _digest(repr(ids).encode())
        return TokenRow(source=where, row=number, tree=tree, input_ids=ids, supervised=supervised, told=(*told, *not_read))


def usable(
    place: Place,
    tree: str,
    messages: tuple[Message, ...],
    trailing: Trailing,
    tools: tuple[Tool, ...] = (),
    told: tuple[str, ...] = (),
) -> list[Item]:
    """The dialogue, or why there is none."""
    where, number = place
    last = len(messages) - 1
    while last >= 0 and messages[last].role != "assistant":
        last -= 1
    if last < 0:
        return [Dropped(source=where, row=number, reason=NO_ASSISTANT_TURN, kind="filtered")]
    items: list[Item] = []
    if trailing == "trim" and last + 1 < len(messages):
        reason = TRAILING_ANSWER_OF_A_TOOL if messages[last + 1].role == "tool" else TRAILING_USER_TURN
        items.append(Dropped(source=where, row=number, reason=reason, kind="trimmed"))
        messages = messages[: last + 1]
    items.append(Dialogue(source=where, row=number, tree=tree, messages=messages, tools=tools, told=told))
    return items


def _check_columns(shape: Shape, data: dict[str, Any], told: Told) -> None:
    """Columns that make a row wrong, and those that are told. Raises InvalidRow."""
    for column, because in shape.refused:
        if not says_nothing(data[column]):
            raise InvalidRow(f"column {column!r} {because}")
    for column, because in shape.told:
        if not says_nothing(data[column]):
            told[f"column {column!r} is not read: {because}"] = None
    if shape.undesired is not None:
        column, because = shape.undesired
        if data[column] is False:
            raise InvalidRow(f"column {column!r} is false, which {because}")
        if not says_nothing(data[column]):
            told[f"column {column!r} is not read"] = None


def _language(shape: Shape, data: dict[str, Any]) -> str:
    column = shape.used.get("language")
    if column is None or not isinstance(data[column], str):
        raise InvalidRow("no column 'lang' or 'language' with a text, which filter.languages needs; add it, or remove the filter")
    return str(data[column])


def _with_reasoning(answer: Message, value: Any, column: str) -> Message:
    reasoning = text_of(value, f"column {column!r}")
    if answer.reasoning not in (None, reasoning):
        raise InvalidRow(f"column {column!r} is another reasoning than that of the answer; keep one")
    return answer._replace(reasoning=reasoning)


def _starts_late(messages: list[Message]) -> bool:
    """Whether something else than a user turn comes first, after a system message."""
    if not messages:
        return False
    return (messages[1] if messages[0].role == "system" and len(messages) > 1 else messages[0]).role not in ("user", "system")


def _named_tree(data: dict[str, Any], column: str | None) -> str | None:
    """The value of the tree column, else the row's own tree id."""
    if column is not None and data.get(column) is None:
        raise InvalidRow(f"no value in column {column!r} (see columns.tree)")
    named = data.get(column or "message_tree_id")
    return None if named is None else str(named)


def _first_question(messages: tuple[Message, ...]) -> str:
    """A digest of the first user message: rows that begin with the same question are one tree."""
    for message in messages:
        if message.role == "user":
            return _digest(message.content.encode())
    return _digest(b"")


def _digest(value: bytes) -> str:
    return blake2b(value, digest_size=16).hexdigest()
