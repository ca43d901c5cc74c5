"""One complaint of pydantic -> one Problem that a person can act on: the field, the value as written, the remedy."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from finetune_api.checks import holds_userinfo
from finetune_api.errors import Problem
from finetune_api.fields import accepts, at, key, keys, located, nearest, owner
from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.finetunejob.hub_ids import REPOSITORY, like_hub_id
from finetune_api.foreign_names import VALUES, plain
from finetune_api.number_remedies import number_remedy
from finetune_api.unknown_keys import unknown_at
from finetune_api.yaml_text import as_yaml

_LONGEST_VALUE = 60
_RANGES: Final = {
    "greater_than": ("is not above", "gt", "use more than"),
    "greater_than_equal": ("is less than", "ge", "use at least"),
    "less_than": ("is not below", "lt", "use less than"),
    "less_than_equal": ("is more than", "le", "use at most"),
}


def problem(error: ErrorDetails, root: type[BaseModel], written: tuple[object, str] | None = None) -> Problem:
    """The Problem behind one of pydantic's errors in a value of type `root`.

    `written`: the value that the text of the file has there, and how it is written, where both are known.
    """
    field, value = located(error["loc"]), error["input"]
    as_text = written[1] if written is not None and type(written[0]) is type(value) and written[0] == value else None
    if error["type"] == "string_type" and not isinstance(value, dict | list) and value is not None:
        text = as_text or json.dumps(value)
        taken = (held := at(error["loc"], root)) is None or accepts(held.declared, text)
        return Problem(field, f"{text} is not text", f'put it in quotes: "{text}"' if taken else "give text of the field's form")
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
        return f"{shown(value)} has the wrong form", _pattern_remedy(value, context["pattern"])
    return _wrong_type(error, value, root)


def shown(value: object) -> str:
    """The value as YAML writes it, cut when it is long; nothing of it when keys stand in an address.

    >>> shown("1k"), shown(None), shown(True), shown(2e-05), shown("ftp://KEY:SECRET@host")
    ('"1k"', 'null', 'true', '2e-05', '"***"')
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    if any(map(holds_userinfo, text.split('"'))):
        return '"***"'
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _wrong_type(error: ErrorDetails, value: object, root: type[BaseModel]) -> tuple[str, str]:
    """A value of another type than the field's."""
    if value is None:
        is_item = error["loc"] and isinstance(error["loc"][-1], int)
        return "has no value", "give one, or remove " + ("the item" if is_item else "the key to take the default")
    expected = error["type"].split("_")[0]
    if expected in ("int", "float", "finite"):
        noun = "a whole number" if expected == "int" else "a number"
        return f"{shown(value)} is not {noun}", number_remedy(value, error["loc"], root, whole=expected == "int")
    if expected == "bool":
        return f"{shown(value)} is not true or false", _bool_remedy(value)
    if expected == "string":
        return f"{shown(value)} is not text", "give plain text"
    if expected == "list":
        return f"{shown(value)} is not a list", "begin each item with `- `"
    return f"{shown(value)} is not a mapping", _mapping_remedy(value, error["loc"], root)


def _mapping_remedy(value: object, loc: Sequence[str | int], root: type[BaseModel]) -> str:
    """A plain value where an object stands is mostly what names it."""
    found = at(loc, root)
    if found is None or found.model is None or not isinstance(value, str):
        return "put its fields below it, indented"
    model = found.model
    names = [name for name, field in model.model_fields.items() if field.is_required()] or ["name"]
    if len(names) == 1 and names[0] in model.model_fields and accepts(model, {key(names[0], model): value}):
        return f"write {{{key(names[0], model)}: {as_yaml(value)}}}"
    return "put its fields below it, indented"


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
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/": "name a resource, for example nvidia.com/gpu",
    r"^([a-z0-9]": "name a key, for example kubernetes.io/hostname",
    r"^(metadata": "name a field of a pod, for example status.podIP",
    r"^(limits": "name a resource, for example limits.cpu",
    r"^([A-Za-z_]": "use letters, digits and `_`, not beginning with a digit",
    r"^[^/:]": "name a path inside the volume",
    r"^[a-z0-9]": "use lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    r"^https?://": "begin it with http:// or https://",
    r"^[A-Za-z0-9]": "use letters, digits and `.`, `_`, `-`, beginning with a letter or digit",
    r"^/": "write an absolute path",
    r"^[A-Za-z_]": "use letters, digits and `_`, not beginning with a digit",
    r"^[0-9]": "write a Kubernetes quantity, for example 500m, 8, 64Gi",
}


def _pattern_remedy(value: str, pattern: str) -> str:
    if pattern == REPOSITORY:
        like = like_hub_id(value)
        return f"write {like}" if like and "/" in like else "write it as org/name, of letters, digits, `_`, `.` and `-`"
    return next((form for start, form in _FORMS.items() if pattern.startswith(start)), f"it must match {pattern}")


def _description(loc: Sequence[str | int], root: type[BaseModel]) -> str:
    """What the schema says of the field, up to the first sentence's end."""
    found = owner(loc, root)
    names: Mapping[str, str] = keys(found[0]) if found else {}
    if found is None or found[1] not in names:
        return "it is needed"
    text = found[0].model_fields[names[found[1]]].description or "it is needed"
    return text.rstrip(".")
