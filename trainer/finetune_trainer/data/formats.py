"""How each format writes a dialogue in one row, and by which columns it is recognised; OASST, whose rows are trees, has `oasst`.

In: the columns of a row. Out: its messages, or InvalidRow. What columns beside the format's own mean is in `meanings`, what keys of
a message mean too; roles and order are judged in `messages`, the same way for every format.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args

from finetune_api.finetunejob import Columns, DataSource, Format
from finetune_trainer.data.dialogues import InvalidRow, Message
from finetune_trainer.data.messages import Keys, Told, keys_of, read_messages
from finetune_trainer.data.values import excerpt, object_of, text_of

Notice = Callable[[str], None]
Read = tuple[list[Message], Sequence[int]]  # messages, and the number of each in the row
Reader = Callable[[dict[str, Any], Told], Read]

# The columns of instruction, additional input and answer.
SINGLE_TURN: Final[dict[str, tuple[str, str, str]]] = {
    "prompt-completion": ("prompt", "", "completion"),
    "alpaca": ("instruction", "input", "output"),
    "dolly": ("instruction", "context", "response"),
}
# The columns that may hold the messages, and the names inside one message.
MULTI_TURN: Final[dict[str, tuple[tuple[str, ...], str, str]]] = {
    "messages": (("messages", "conversations", "conversation"), "role", "content"),
    "sharegpt": (("conversations", "conversation"), "from", "value"),
}
NAMES: Final[tuple[Format, ...]] = tuple(name for name in get_args(Format) if name != "auto")
# Columns that a format is published with and that say nothing about the dialogue.
_NUMBERING: Final = {"sharegpt": frozenset(("id",)), "dolly": frozenset(("category",))}
# How many messages of a row recognition looks at: one of them may be broken.
_LOOKED_AT = 8
_SHOWN_COLUMNS = 30
_CLASSES: Final = frozenset(("label", "labels"))


def ignore_notice(text: str) -> None:
    """For callers that show no notices."""


def own_columns(form: str, columns: Columns) -> frozenset[str]:
    """The columns that a format reads itself, and those that the source's settings name."""
    named = {name for name in columns.model_dump().values() if name is not None}
    if form in MULTI_TURN:
        # Of several that may hold messages the first that is there is read; the others are told.
        return frozenset(named | _NUMBERING.get(form, frozenset()))
    if form in SINGLE_TURN:
        prompt, context, completion = SINGLE_TURN[form]
        read = {columns.prompt or prompt, columns.context or context, columns.completion or completion}
        return frozenset(named | read | _NUMBERING.get(form, frozenset()))
    if form == "tokenized":
        return frozenset(named | {"input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks"})
    return frozenset(named | {columns.text or "text"})


def messages_column(form: str, columns: Columns, data: Iterable[str]) -> str | None:
    """Which of a row's columns holds its messages."""
    return next((name for name in _candidates(columns.messages, MULTI_TURN[form][0]) if name in data), None)


def reader(form: str, source: DataSource) -> Reader:
    """The function from a row to its messages for any format of dialogues but `oasst`."""
    return _multi_turn(form, source) if form in MULTI_TURN else _single_turn(form, source)


def detected_format(data: dict[str, Any], source: DataSource) -> Format | None:
    """The format that a row fits, or None.

    >>> detected_format({"instruction": "Say hi", "context": "", "response": "Hi"}, DataSource(path="./x.jsonl"))
    'dolly'
    """
    return next((form for form in NAMES if _fits(form, data, source)), None)


def named_format(data: dict[str, Any], source: DataSource) -> Format | None:
    """The format that has a column of such a name, whatever is in it: for data of which no row fits any."""
    if messages_column("messages", source.columns, data) in ("messages", source.columns.messages):
        return "messages" if "messages" in data or source.columns.messages in data else None
    return "sharegpt" if messages_column("sharegpt", source.columns, data) else None


def _fits(form: str, data: dict[str, Any], source: DataSource) -> bool:
    columns = source.columns
    if form == "oasst":
        return "message_tree_id" in data and (isinstance(data.get("prompt"), dict) or {"message_id", "text", "role"} <= data.keys())
    if form in SINGLE_TURN:
        prompt, _, completion = SINGLE_TURN[form]
        return (columns.prompt or prompt) in data and (columns.completion or completion) in data
    if form == "tokenized":
        return isinstance(data.get("input_ids"), list)
    if form == "text":
        # A text with a class is for a classifier, and nobody asked for it to be learnt by heart.
        return isinstance(data.get(columns.text or "text"), str) and (columns.text is not None or not _CLASSES & data.keys())
    keys = _keys(form, source)
    column = messages_column(form, columns, data)
    return column is not None and _looks_like_messages(data[column], keys)


def _looks_like_messages(value: Any, keys: Keys) -> bool:
    try:
        value = object_of(value, "")
        if isinstance(value, dict):
            return {keys.role, keys.content} <= value.keys() and isinstance(value[keys.role], list)
        turns = [object_of(turn, "") for turn in value[:_LOOKED_AT]] if isinstance(value, list) else []
    except InvalidRow:
        return False
    return any(isinstance(turn, dict) and {keys.role, keys.content} <= turn.keys() for turn in turns)


def _candidates(column: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    return (column,) if column else names


def _keys(form: str, source: DataSource) -> Keys:
    role, content = MULTI_TURN[form][1:] if form in MULTI_TURN else ("role", "content")
    return keys_of(role, content, source.message_property_mappings, source.roles)


def _multi_turn(form: str, source: DataSource) -> Reader:
    keys, columns = _keys(form, source), source.columns
    candidates = _candidates(columns.messages, MULTI_TURN[form][0])

    def read(data: dict[str, Any], told: Told) -> Read:
        column = next((name for name in candidates if name in data), None)
        if column is None:
            raise _no_column(candidates[0], data, "columns.messages")
        try:
            read = read_messages(data[column], keys, told)
        except InvalidRow as error:
            raise InvalidRow(f"{error} (column {column!r})") from None
        if not read[0]:
            raise InvalidRow(f"no message at all (column {column!r})")
        return read

    return read


def _single_turn(form: str, source: DataSource) -> Reader:
    columns, keys = source.columns, _keys(form, source)
    prompt_name, context_name, completion_name = SINGLE_TURN[form]
    prompt_column = columns.prompt or prompt_name
    completion_column = columns.completion or completion_name

    def read(data: dict[str, Any], told: Told) -> Read:
        prompt = value_of(data, prompt_column, "columns.prompt")
        completion = value_of(data, completion_column, "columns.completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return read_messages(prompt + completion, keys, told)
        context = value_of(data, columns.context, "columns.context") if columns.context else data.get(context_name)
        if context and not isinstance(context, str | bytes):
            raise InvalidRow(
                f"the additional input is of type {type(context).__name__}, not a string (column {columns.context or context_name!r})"
            )
        if not (type(prompt) is str and type(completion) is str):
            prompt = _column_text(prompt, "message 1 (user)", prompt_column)
            completion = _column_text(completion, "message 2 (assistant)", completion_column)
        if context:
            prompt = f"{prompt}\n\n{text_of(context, 'the additional input')}"
        return [Message(role="user", content=prompt), Message(role="assistant", content=completion)], [1, 2]

    return read


def _column_text(value: Any, what: str, column: str) -> str:
    try:
        return text_of(value, f"{what}: the text")
    except InvalidRow as error:
        raise InvalidRow(f"{error} (column {column!r})") from None


def history_of(value: Any, column: str) -> list[Message]:
    """Earlier exchanges: a list of pairs of question and answer."""
    pairs = object_of(value, f"column {column!r}")
    if not isinstance(pairs, list):
        raise InvalidRow(f"column {column!r} is of type {type(pairs).__name__}, not a list of pairs of question and answer")
    messages = []
    for number, pair in enumerate(pairs, start=1):
        what = f"column {column!r}, pair {number}"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidRow(f"{what} is {excerpt(pair)}, not a question and its answer")
        question, answer = (text_of(text, what) for text in pair)
        messages += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return messages


def value_of(data: dict[str, Any], column: str, setting: str) -> Any:
    """A column that must be there."""
    if column not in data:
        raise _no_column(column, data, setting)
    return data[column]


def _no_column(column: str, present: Iterable[str], setting: str) -> InvalidRow:
    names = list(present)
    shown = ", ".join(map(repr, names[:_SHOWN_COLUMNS])) + (", ..." if len(names) > _SHOWN_COLUMNS else "")
    why = ": preference data, as for DPO" if {"chosen", "rejected"} <= set(names) else ""
    return InvalidRow(f"no column {column!r}; the row has {shown or 'none'}{why} (see {setting})")


def no_format(data: dict[str, Any]) -> str:
    """Why a row fits no format, and what to do."""
    if {"chosen", "rejected"} <= data.keys():
        return (
            "preference data (chosen, rejected), as for DPO, and this trainer learns answers as they are; "
            "set format and columns so that only the chosen one is read, such as columns.messages: chosen"
        )
    known = ", ".join(NAMES[:-1])
    columns = ", ".join(map(repr, list(data)[:_SHOWN_COLUMNS])) or "(none)"
    return f"no known format has the columns {columns}; set the source's format ({known} or {NAMES[-1]}) and columns"
