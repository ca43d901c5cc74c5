"""The fields of a FineTuneJob as a tree: what a path leads to, which keys an object takes, which name was probably meant.

Paths are those of YAML: camelCase, `spec.dataset.sources[0].path`.
"""

import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Annotated, Any, Final, Literal, Union

from pydantic import BaseModel, TypeAdapter, ValidationError

# More than the API has; what is asked for comes from users.
_MOST_FIELDS: Final = 4096


def key(name: str, model: type[BaseModel]) -> str:
    """The YAML key of a model's field."""
    return model.model_fields[name].alias or name


def keys(model: type[BaseModel]) -> dict[str, str]:
    """YAML key -> field name."""
    return {key(name, model): name for name in model.model_fields}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field holds, seen from YAML."""

    annotation: Any  # without Annotated and without None
    optional: bool  # null is allowed
    declared: Any = field(default=None, compare=False, repr=False)  # as it is written, with its bounds

    @property
    def model(self) -> type[BaseModel] | None:
        """The object's model, when it is an object with known keys."""
        return self.annotation if isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel) else None

    @property
    def item(self) -> Any:
        """Annotation of a list's items or a mapping's values; None for anything else."""
        return typing.get_args(self.annotation)[-1] if typing.get_origin(self.annotation) in (list, dict) else None

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.annotation) is list

    @property
    def is_mapping(self) -> bool:
        return typing.get_origin(self.annotation) is dict

    @property
    def is_text(self) -> bool:
        """A string or one of several strings."""
        return self.annotation is str or typing.get_origin(self.annotation) is Literal


def kind(annotation: Any) -> Kind:
    """Strip Annotated and `| None`.

    >>> kind(Annotated[int, 1] | None)
    Kind(annotation=<class 'int'>, optional=True)
    """
    optional, declared = False, annotation
    while (origin := typing.get_origin(annotation)) in (Annotated, Union, types.UnionType):
        members = typing.get_args(annotation)
        if origin is not Annotated:
            optional = type(None) in members
            members = tuple(member for member in members if member is not type(None))
        annotation = members[0]
    return Kind(annotation, optional, declared)


@lru_cache(_MOST_FIELDS)
def field_kind(model: type[BaseModel], yaml_key: str) -> Kind | None:
    """What the model's field holds; None when there is no such key."""
    name = keys(model).get(yaml_key)
    if name is None:
        return None
    info = model.model_fields[name]
    declared = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return replace(kind(model.__annotations__.get(name) or info.annotation), declared=declared)


@cache
def paths(model: type[BaseModel], prefix: str = "spec") -> tuple[str, ...]:
    """Every field below a model, in order; `[]` stands for any index."""
    return tuple(_paths(model, prefix))


def _paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for yaml_key in keys(model):
        found = field_kind(model, yaml_key)
        assert found is not None
        path = f"{prefix}.{yaml_key}"
        yield path
        inner = kind(found.item) if found.item is not None else found
        if inner.model is not None:
            yield from _paths(inner.model, path + ("[]" if found.is_list else ""))


def owner(loc: typing.Sequence[str | int], root: type[BaseModel]) -> tuple[type[BaseModel], str] | None:
    """The model that the last part of the location belongs to, and that part; None below a plain value or free keys."""
    model = root
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        found = field_kind(model, part)
        inner = kind(found.item) if found and found.item is not None else found
        if inner is None or inner.model is None:
            return None
        model = inner.model
    return model, str(loc[-1])


def at(loc: typing.Sequence[str | int], root: type[BaseModel]) -> Kind | None:
    """What the last part of the location may hold; None where that isn't known."""
    names = [part for part in loc if isinstance(part, str)]
    found = owner(names, root) if names else None
    if found is None:  # below a mapping of free keys
        above = at(loc[:-1], root) if len(loc) > 1 else None
        return kind(above.item) if above is not None and above.is_mapping else None
    held = field_kind(*found)
    return kind(held.item) if held is not None and held.item is not None and isinstance(loc[-1], int) else held


def accepts(declared: Any, value: Any) -> bool:
    """Whether a field declared so takes the value, as it comes from YAML."""
    try:
        TypeAdapter(declared).validate_python(value, strict=True, by_alias=True, by_name=False)
    except ValidationError:
        return False
    return True


def nearest(word: str, known: typing.Iterable[str]) -> str | None:
    """The known word that was probably meant, whatever its case; None when none is close.

    >>> nearest("learning_rate", ["epochs", "learningRate"])
    'learningRate'
    """
    plain = {name.replace("_", "").lower(): name for name in known}
    close = difflib.get_close_matches(word.replace("_", "").replace("-", "").lower(), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def located(loc: typing.Sequence[str | int]) -> str:
    """A pydantic location as a path.

    >>> located(("spec", "dataset", "sources", 0, "path"))
    'spec.dataset.sources[0].path'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def without_nulls(data: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The mapping without the keys that hold null, as the API server has it. Unknown ones stay, to be refused.

    >>> from finetune_api.finetunejob import Training
    >>> without_nulls({"epochs": None, "epoch": None, "optimizer": {"schedule": None}}, Training)
    {'epoch': None, 'optimizer': {}}
    """
    result = {}
    for name, value in data.items():
        found = field_kind(model, name)
        if found is None or value is not None:
            result[name] = value if found is None else _inner_without_nulls(value, found)
    return result


def _inner_without_nulls(value: Any, found: Kind) -> Any:
    if isinstance(value, dict) and found.model is not None:
        return without_nulls(value, found.model)
    if isinstance(value, dict) and found.is_mapping and found.item is not Any:
        return {name: item for name, item in value.items() if item is not None}
    if isinstance(value, list) and found.is_list:
        return [_inner_without_nulls(item, kind(found.item)) for item in value]
    return value
