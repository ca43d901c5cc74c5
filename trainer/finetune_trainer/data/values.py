"""Values of a row as they come out of JSON, CSV, Parquet and the Hub: texts that may be bytes, objects that may be JSON text.

In: a value and what messages call it. Out: a str, or the object that the text stands for; anything else is InvalidRow.
"""

import json
from typing import Any

from finetune_trainer.data.dialogues import InvalidRow


def text_of(value: Any, what: str) -> str:
    """A string, or the bytes of one. Raises InvalidRow."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRow(f"{what}: not UTF-8: byte 0x{value[error.start]:02x} at byte {error.start + 1}") from None
    raise InvalidRow(f"{what} is of type {type(value).__name__}, not a string")


def object_of(value: Any, what: str) -> Any:
    """`value`, or the JSON value that its text stands for. Raises InvalidRow."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(text_of(value, what), parse_constant=_no_json)
    except ValueError as error:
        raise InvalidRow(f"{what} is text that is no JSON ({error}): {excerpt(value)}") from None
    except RecursionError:
        raise InvalidRow(f"{what} is JSON nested too deeply") from None


def check_json(value: Any, what: str) -> None:
    """Refuse what a template could not write as JSON: NaN, bytes, half characters."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidRow(f"{what}: half of a surrogate pair, which is no character, is in it") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRow(f"{what} can't be written as JSON ({error})") from None


def is_unicode(text: str) -> bool:
    """False for lone surrogates: JSON can escape them, no tokenizer can take them."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def excerpt(value: Any) -> str:
    """The beginning of a value as Python writes it."""
    try:
        text = repr(value[:100] if isinstance(value, str | bytes | list) else value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= 80 else text[:77] + "..."


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
