"""The fields below spec while a job is drafted: those of another trainer's file first, drafted ones where there is none yet."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from finetune_api.fields import field_kind, keys
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_assistant.drafting.job_text import BLOCKS


def nested(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a path of names; None where there is none.

    >>> nested({"training": {"epochs": 3}}, "training.epochs"), nested({}, "training.epochs")
    (3, None)
    """
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of names."""
    *above, last = path.split(".")
    for name in above:
        fields = fields.setdefault(name, {})
    fields[last] = value


def removed(fields: dict[str, Any], path: str) -> None:
    """Remove the value at a path of names, and what is empty without it."""
    name, _, rest = path.partition(".")
    if rest and isinstance(fields.get(name), dict):
        removed(fields[name], rest)
    if not rest or not fields.get(name):
        fields.pop(name, None)


class Fields:
    """`spec` and, for each line of the file, its comment: what is drafted never takes the place of what is there."""

    def __init__(self, given: Mapping[str, Any], told: Mapping[str, str]) -> None:
        """`given`: fields of another trainer's file; `told`: what the comments say of each."""
        self.spec: dict[str, Any] = deepcopy(dict(given))
        self.comments: dict[str, str] = {}
        for path, text in told.items():
            self.say(_line(path), text)

    def lines(self) -> dict[str, Any]:
        """The sections in the order of a job, and so the fields of those that have lines of their own; None where only a comment is."""
        sections = self._in_order(FineTuneJobSpec, self.spec, "")
        for section in BLOCKS:
            if sections.get(section) is not None:
                found = field_kind(FineTuneJobSpec, section)
                assert found is not None
                assert found.model is not None
                sections[section] = self._in_order(found.model, sections[section], f"{section}.")
        return sections

    def _in_order(self, model: type[BaseModel], fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {name: fields.get(name) for name in keys(model) if name in fields or f"{prefix}{name}" in self.comments}

    def has(self, path: str) -> bool:
        """Whether the field, or one below it, is set."""
        return nested(self.spec, path) is not None

    def get(self, path: str) -> Any:
        """The field's value; None where it is absent."""
        return nested(self.spec, path)

    def draft(self, path: str, value: Any, comment: str = "") -> bool:
        """Set a field that is absent; whether it was."""
        if self.has(path):
            return False
        put(self.spec, path, value)
        if comment:
            self.say(_line(path), comment)
        return True

    def say(self, line: str, text: str) -> None:
        """Add to the comment of a line."""
        if text:
            self.comments[line] = "; ".join(filter(None, (self.comments.get(line), text)))


def _line(path: str) -> str:
    """The line of the file that a field stands in.

    >>> _line("training.optimizer.learningRate"), _line("publish.hub.repository")
    ('training.optimizer', 'publish')
    """
    section, *rest = path.split(".")
    return f"{section}.{rest[0]}" if section in BLOCKS and rest else section
