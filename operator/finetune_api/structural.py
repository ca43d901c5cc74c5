"""pydantic's JSON schema rewritten as a structural schema, with CEL rules.

A structural schema (Kubernetes' apiextensions v1) has no $ref, no null type, no const, boolean exclusive bounds, and never
additionalProperties beside properties; unknown keys are refused by the API server's own field validation.
"""

from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel

from finetune_api.crd_rules import RULES
from finetune_api.finetunejob import LARGEST_INTEGER

Schema = dict[str, Any]


def structural(model: type[BaseModel]) -> Schema:
    """The model's structural schema."""
    schema = model.model_json_schema(by_alias=True)
    definitions = {name: _with_rules(name, definition) for name, definition in schema.pop("$defs", {}).items()}
    return _rewritten(_with_rules(model.__name__, schema), definitions)


def _with_rules(name: str, definition: Schema) -> Schema:
    """The definition with the CEL rules of its model."""
    rules = next((rules for model, rules in RULES.items() if model.__name__ == name), ())
    extra = {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]} if rules else {}
    return {**definition, **extra}


def _rewritten(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """One node and everything below it."""
    schema = without_reference(schema, definitions)
    for rewrite in REWRITES:
        schema = rewrite(schema)
    if "$ref" in schema:  # it was inside anyOf
        return _rewritten(schema, definitions)
    if "properties" in schema:
        schema["properties"] = {name: _rewritten(value, definitions) for name, value in schema["properties"].items()}
    for name in ("items", "additionalProperties"):
        if name in schema:
            schema[name] = _rewritten(schema[name], definitions)
    return schema


def without_reference(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """$ref replaced by what it points to; keys beside it win."""
    if "$ref" not in schema:
        return dict(schema)
    beside = {name: value for name, value in schema.items() if name != "$ref"}
    return {**definitions[schema["$ref"].removeprefix("#/$defs/")], **beside}


def without_null(schema: Schema) -> Schema:
    """`X or null` becomes X: the API server drops null from an optional field. A default of null becomes none."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    result = {name: value for name, value in schema.items() if name != "anyOf" and not (name == "default" and value is None)}
    assert len(options) <= 1, f"a field takes two kinds of value: {options}"
    return {**options[0], **result} if options else result


def without_const(schema: Schema) -> Schema:
    """`const` becomes an enum of one."""
    if "const" not in schema:
        return schema
    return {**{name: value for name, value in schema.items() if name != "const"}, "enum": [schema["const"]]}


def with_boolean_bounds(schema: Schema) -> Schema:
    """`exclusiveMinimum: 0` becomes `minimum: 0, exclusiveMinimum: true`, as in OpenAPI 3.0."""
    result = dict(schema)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in result and not isinstance(result[exclusive], bool):
            result[bound], result[exclusive] = result[exclusive], True
    return result


def without_closed_objects(schema: Schema) -> Schema:
    """No additionalProperties beside properties, and none that says no more than yes or no."""
    if "properties" in schema or isinstance(schema.get("additionalProperties"), bool):
        return {name: value for name, value in schema.items() if name != "additionalProperties"}
    return schema


def with_nested_defaults(schema: Schema) -> Schema:
    """An object's default is {}: its fields' own defaults fill it in, and are written once."""
    return {**schema, "default": {}} if isinstance(schema.get("default"), dict) else schema


def with_integer_format(schema: Schema) -> Schema:
    """Whole numbers have 64 bits, which needs no maximum then."""
    if schema.get("type") != "integer":
        return schema
    bounds = {name: value for name, value in schema.items() if (name, value) != ("maximum", LARGEST_INTEGER)}
    return {**bounds, "format": "int64"}


def without_title(schema: Schema) -> Schema:
    """pydantic's titles repeat the names. (A field may be called title: that one is a schema, not a string.)"""
    return {name: value for name, value in schema.items() if not (name == "title" and isinstance(value, str))}


REWRITES: Final[tuple[Callable[[Schema], Schema], ...]] = (
    without_null,
    without_const,
    with_boolean_bounds,
    without_closed_objects,
    with_nested_defaults,
    with_integer_format,
    without_title,
)
