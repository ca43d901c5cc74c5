"""One complaint of pydantic -> one Problem that a person can act on: the field, the value as written, the remedy."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from finetune_api.checks import holds_userinfo
from finetune_api.errors import Problem
from finetune_api.fields import keys, located, nearest, owner
from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.foreign_names import VALUES, plain
from finetune_api.unknown_keys import unknown_at

_LONGEST_VALUE = 60
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_THOUSANDS: Final = {"k": 1_000, "ki": 1_024, "m": 1_000_000, "mi": 1_048_576, "g": 1_000_000_000}
_RANGES: Final = {
    "greater_than": ("is not above", "gt", "use more than"),
    "greater_than_equal": ("is less than", "ge", "use at least"),
    "less_than": ("is not below", "lt", "use less than"),
    "less_than_equal": ("is more than", "le", "use at most"),
}


def problem(error: ErrorDetails, root: type[BaseModel]) -> Problem:
    """The Problem behind one of pydantic's errors in a value of type `root`."""
    field, value = located(error["loc"]), error["input"]
    message, remedy = _words(error, value, root)
    return Problem(field or "the job", message, remedy)


def by_field(error: ErrorDetails) -> list[ErrorDetails]:
    """The error itself, or what a validator of an object says of single fields as an error of each."""
    raised = error.get("ctx", {}).get("error")
    if not isinstance(raised, FieldErrors):
        return [error]
    return [
        {**error, "loc": (*error["loc"], *field.split(".")), "ctx": {"error": ValueError(f"{message}; {remedy}")}}
        for field, message, remedy in raised.errors
    ]


def _words(error: ErrorDetails, value: Any, root: type[BaseModel]) -> tuple[str, str]:
    """Message and remedy."""
    kind_of_error, context = error["type"], error.get("ctx", {})
    name = str(error["loc"][-1]) if error["loc"] else ""
    if kind_of_error == "extra_forbidden":
        return unknown_at(error["loc"], value, root)
    if kind_of_error == "missing":
        return "is missing", f"add it: {_description(error['loc'], root)}"
    if kind_of_error == "value_error":
        message, _, remedy = str(context["error"]).partition("; ")
        return message, remedy
    if kind_of_error in _RANGES:
        words, bound, remedy = _RANGES[kind_of_error]
        return f"{shown(value)} {words} {context[bound]}", f"{remedy} {context[bound]}"
    if kind_of_error == "literal_error":
        return f"{shown(value)} is not one of {context['expected']}", _literal_remedy(value, context["expected"], name)
    if kind_of_error in ("too_short", "string_too_short"):
        return "is empty", f"add it: {_description(error['loc'], root)}"
    if kind_of_error in ("too_long", "string_too_long"):
        return f"{shown(value)} is longer than {context.get('max_length')}", "shorten it"
    if kind_of_error == "string_pattern_mismatch":
        return f"{shown(value)} has the wrong form", _pattern_remedy(context["pattern"])
    return _wrong_type(kind_of_error, value, name)


def shown(value: object) -> str:
    """The value as YAML writes it, cut when it is long; nothing of it when keys stand in an address.

    >>> shown("1k"), shown(None), shown(True), shown(2e-05), shown("ftp://KEY:SECRET@host")
    ('"1k"', 'null', 'true', '2e-05', '"***"')
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    if any(map(holds_userinfo, text.split('"'))):
        return '"***"'
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _wrong_type(kind_of_error: str, value: object, name: str) -> tuple[str, str]:
    """A value of another type than the field's."""
    if value is None:
        return "has no value", "give one, or remove the key to take the default"
    expected = kind_of_error.split("_")[0]
    if expected in ("int", "float", "finite"):
        noun = "a whole number" if expected == "int" else "a number"
        return f"{shown(value)} is not {noun}", _number_remedy(value, name, whole=expected == "int")
    if expected == "bool":
        return f"{shown(value)} is not true or false", _bool_remedy(value)
    if expected == "string":
        return f"{shown(value)} is not text", f'put it in quotes: "{value}"' if not isinstance(value, dict | list) else "give plain text"
    if expected == "list":
        return f"{shown(value)} is not a list", "begin each item with `- `"
    return f"{shown(value)} is not a mapping", "put its fields below it, indented"


def _number_remedy(value: object, name: str, *, whole: bool) -> str:
    """What number was probably meant."""
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if not isinstance(value, str):
        return "write a whole number" if whole else "write a finite number"
    match = re.fullmatch(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%]*)\s*", value.replace("_", "").replace(",", ""))
    try:
        number, unit = (float(match[1]), match[2].lower()) if match else (None, "")
    except ValueError:
        number = None
    if number is None:
        return "write a number without quotes"
    factor = (_SECONDS if "seconds" in name.lower() else _THOUSANDS).get(unit)
    if factor is not None:
        noun = "this field is in seconds: " if factor in _SECONDS.values() and "seconds" in name.lower() else ""
        other = f" or {_plain(number * 1024)}" if unit == "k" and name.lower().endswith(("length", "size")) else ""
        return f"{noun}write {_plain(number * factor)}{other}"
    if unit == "%":
        return f"write {_plain(number / 100)}"
    if unit:
        return f"write a number without the unit `{match[2] if match else unit}`"
    return f"remove the quotes: {_plain(number) if whole else value.strip()}"


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() else f"{number:g}"


def _bool_remedy(value: object) -> str:
    word = str(value).lower()
    if word in ("yes", "on", "y", "1", "true"):
        return "write true"
    return "write false" if word in ("no", "off", "n", "0", "false") else "write true or false"


def _literal_remedy(value: object, expected: str, name: str) -> str:
    if isinstance(value, str) and (known := VALUES.get(name, {}).get(plain(value))):
        return known
    choices = re.findall(r"'([^']*)'", expected)
    like = nearest(value, choices) if isinstance(value, str) else None
    return f"did you mean {like}?" if like else f"use {' or '.join(choices) if len(choices) < 3 else 'one of them'}"


_FORMS: Final = {
    r"^[a-z0-9]": "use lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    r"^https?://": "begin it with http:// or https://",
    r"^[A-Za-z0-9]": "write it as org/name",
    r"^/": "write an absolute path",
    r"^[A-Za-z_]": "use letters, digits and `_`, not beginning with a digit",
    r"^[0-9]": "write a Kubernetes quantity, for example 500m, 8, 64Gi",
}


def _pattern_remedy(pattern: str) -> str:
    return next((form for start, form in _FORMS.items() if pattern.startswith(start)), f"it must match {pattern}")


def _description(loc: Sequence[str | int], root: type[BaseModel]) -> str:
    """What the schema says of the field, up to the first sentence's end."""
    found = owner(loc, root)
    names: Mapping[str, str] = keys(found[0]) if found else {}
    if found is None or found[1] not in names:
        return "it is needed"
    text = found[0].model_fields[names[found[1]]].description or "it is needed"
    return text.rstrip(".")
