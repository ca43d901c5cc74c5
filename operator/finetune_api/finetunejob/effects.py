"""When a field has an effect: one row holds it in Python, as the API server's rule and in words.

A setting that can do nothing is a wish unmet, so it is refused with a remedy. A field counts as set when its value isn't the default:
the API server fills defaults in, so that what a user left out can't be told from what they wrote. This room knows no section of the spec.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """`field` of an object, set to more than its default, needs that `acts(object)`; `cel` is the same for the API server.

    `field` is the Python name, with dots through objects inside (`columns.messages`). `cel` is tried on objects whose defaults are not
    filled in yet: it asks `has(...)` before it reads what may be absent.
    """

    field: str
    acts: Callable[[Any], bool]
    cel: str
    message: str
    remedy: str = "remove it"


class FieldErrors(ValueError):
    """What a validator of an object says of single fields: each a path below the object in YAML's names, a message and a remedy."""

    def __init__(self, errors: Sequence[tuple[str, str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}; {remedy}" for field, message, remedy in errors))
        self.errors = tuple(errors)


def refuse_idle(value: BaseModel, effects: Sequence[Effect]) -> None:
    """Raise FieldErrors with those fields that are set and can't act."""
    found = [effect for effect in effects if is_set(value, effect.field) and not effect.acts(value)]
    if found:
        raise FieldErrors([(yaml_path(effect.field), effect.message, effect.remedy) for effect in found])


def is_set(value: BaseModel, field: str) -> bool:
    """Whether the field, or one below an object on the way to it, differs from its default."""
    name, _, rest = field.partition(".")
    found = getattr(value, name)
    if rest:
        return found is not None and is_set(found, rest)
    return bool(found != _default(type(value), name))


@functools.cache
def _default(kind: type[BaseModel], name: str) -> Any:
    """A field's default, to compare with: pydantic copies it each time that it is asked, which was half of a validation's time."""
    return kind.model_fields[name].get_default(call_default_factory=True)


def yaml_path(field: str) -> str:
    """
    >>> yaml_path("filter.top_answers")
    'filter.topAnswers'
    """
    return ".".join(map(to_camel, field.split(".")))
