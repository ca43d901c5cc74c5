"""How each format writes a dialogue in one row; OASST, whose rows are trees, has `oasst`.

In: the columns of a row. Out: its turns as they are written, or InvalidRow. Roles and order are judged in `dialogues`, the
same way for every format.
"""

from collections.abc import Callable, Iterable
from typing import Any, get_args

from finetune_api.finetunejob import Columns, Format

# (role as written, text, identity of the message or None)
Turn = tuple[Any, Any, str | None]
Notice = Callable[[str], None]
Reader = Callable[[dict[str, Any]], list[Turn]]

# The columns of instruction, additional input and answer.
SINGLE_TURN: dict[str, tuple[str, str, str]] = {
    "prompt-completion": ("prompt", "", "completion"),
    "alpaca": ("instruction", "input", "output"),
    "dolly": ("instruction", "context", "response"),
}
# The columns that may hold the messages, and the names inside one message.
MULTI_TURN: dict[str, tuple[tuple[str, ...], str, str]] = {
    "messages": (("messages", "conversations"), "role", "content"),
    "sharegpt": (("conversations", "conversation"), "from", "value"),
}
NAMES: tuple[Format, ...] = tuple(name for name in get_args(Format) if name != "auto")


class InvalidRow(Exception):
    """A row that can't become a dialogue. Inside the parsers only: it ends as a `Dropped` with this reason."""


def ignore_notice(text: str) -> None:
    """For callers that show no notices."""


def reader(form: str, columns: Columns) -> Reader:
    """The function from a row to its turns for any format but `oasst`."""
    if form in MULTI_TURN:
        return _with_system(_multi_turn(form, columns), columns.system)
    return _with_system(_single_turn(form, columns), columns.system)


def detected_format(data: dict[str, Any], columns: Columns) -> Format | None:
    """The format that a row's columns fit, or None.

    >>> detected_format({"instruction": "Say hi", "context": "", "response": "Hi"}, Columns())
    'dolly'
    """
    return next((form for form in NAMES if _fits(form, data, columns)), None)


def _fits(form: str, data: dict[str, Any], columns: Columns) -> bool:
    if form == "oasst":
        return "message_tree_id" in data and (isinstance(data.get("prompt"), dict) or {"message_id", "text", "role"} <= data.keys())
    if form in SINGLE_TURN:
        prompt, _, completion = SINGLE_TURN[form]
        return (columns.prompt or prompt) in data and (columns.completion or completion) in data
    names, role, content = MULTI_TURN[form]
    turns = next((data[name] for name in _candidates(columns.messages, names) if name in data), None)
    first = turns[0] if isinstance(turns, list) and turns else turns
    return isinstance(first, dict) and {role, content} <= first.keys()


def _candidates(column: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    return (column,) if column else names


def _multi_turn(form: str, columns: Columns) -> Reader:
    names, role, content = MULTI_TURN[form]
    candidates = _candidates(columns.messages, names)

    def read(data: dict[str, Any]) -> list[Turn]:
        column = next((name for name in candidates if name in data), None)
        if column is None:
            raise _no_column(candidates[0], data, "columns.messages")
        return message_turns(data[column], role, content)

    return read


def message_turns(turns: Any, role: str, content: str) -> list[Turn]:
    """Turns of a list of messages, or of the columns of one: Arrow writes a list of messages either way."""
    try:
        if isinstance(turns, dict):
            return [(name, text, None) for name, text in zip(turns[role], turns[content], strict=True)]
        return [(turn[role], turn[content], None) for turn in turns]
    except (KeyError, TypeError, ValueError):
        raise InvalidRow(f"messages must be a list of objects with {role!r} and {content!r}, not {_excerpt(turns)}") from None


def _single_turn(form: str, columns: Columns) -> Reader:
    prompt_name, context_name, completion_name = SINGLE_TURN[form]
    prompt_column = columns.prompt or prompt_name
    completion_column = columns.completion or completion_name

    def read(data: dict[str, Any]) -> list[Turn]:
        prompt = _value(data, prompt_column, "columns.prompt")
        completion = _value(data, completion_column, "columns.completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return message_turns(prompt + completion, "role", "content")
        context = _value(data, columns.context, "columns.context") if columns.context else data.get(context_name)
        if context and not isinstance(context, str):
            raise InvalidRow(f"the additional input is of type {type(context).__name__}, not a string")
        if context and isinstance(prompt, str):
            prompt = f"{prompt}\n\n{context}"
        return [("user", prompt, None), ("assistant", completion, None)]

    return read


def _with_system(read: Reader, column: str | None) -> Reader:
    """`read`, with the text of `column` as the first turn where it has one."""
    if column is None:
        return read

    def read_with_system(data: dict[str, Any]) -> list[Turn]:
        text = _value(data, column, "columns.system")
        turns = read(data)
        return [("system", text, None), *turns] if text else turns

    return read_with_system


def _value(data: dict[str, Any], column: str, setting: str) -> Any:
    if column not in data:
        raise _no_column(column, data, setting)
    return data[column]


def _no_column(column: str, present: Iterable[str], setting: str) -> InvalidRow:
    return InvalidRow(f"no column {column!r}; the row has {', '.join(map(repr, present)) or 'none'} (see {setting})")


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
