"""The CustomResourceDefinition, generated: pydantic's JSON schema rewritten as a structural schema, with CEL rules.

`python -m finetune_api.crd` prints it. A structural schema (Kubernetes' apiextensions v1) has no $ref, no null type, no
const, boolean exclusive bounds, and never additionalProperties beside properties; unknown keys are refused by the API
server's own field validation.
"""

from collections.abc import Callable
from typing import Any, Final

import yaml
from pydantic import BaseModel

from finetune_api import finetunejob as job
from finetune_api.fields import key
from finetune_api.keys import API_VERSION, KIND
from finetune_api.status import FineTuneJobStatus

Schema = dict[str, Any]


def crd() -> Schema:
    """The CustomResourceDefinition of FineTuneJob."""
    group, version = API_VERSION.split("/")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"finetunejobs.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": KIND, "listKind": f"{KIND}List", "plural": "finetunejobs", "singular": "finetunejob", "shortNames": ["ftj"]},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root_schema()},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [dict(column) for column in PRINTER_COLUMNS],
                }
            ],
        },
    }


def root_schema() -> Schema:
    """The schema of the whole object."""
    return {
        "type": "object",
        "description": job.FineTuneJob.__doc__ or "",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(job.FineTuneJobSpec),
            "status": structural(FineTuneJobStatus),
        },
        "x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in ROOT_RULES],
    }


def _column(name: str, path: str, kind: str = "string", priority: int = 0, description: str = "") -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path, "priority": priority}
    return {**column, "description": description} if description else column


PRINTER_COLUMNS: Final = (
    _column("Stage", ".status.stage"),
    _column("Step", ".status.progress.step", "integer"),
    _column("Loss", ".status.progress.loss", "number"),
    _column("ETA", ".status.progress.eta", description="Time left."),
    _column("Attempt", ".status.attempt", "integer"),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Model", ".spec.model.name", priority=1),
    _column("Tokens/s", ".status.progress.tokensPerSecond", "number", priority=1),
    _column("Checkpoint", ".status.checkpoints.latest.step", "integer", priority=1, description="Step of the newest verified checkpoint."),
    _column("Published", ".status.publication.revision", priority=1),
)


# ---- CEL


def _exclusive(first: str, second: str) -> tuple[str, str]:
    return f"!(has(self.{first}) && has(self.{second}))", f"{first} and {second} exclude each other; keep one"


# The rules that pydantic's validators hold in Python, for the API server; a test has a bad value for each.
RULES: Final[dict[type[BaseModel], tuple[tuple[str, str], ...]]] = {
    job.EvaluationData: (_exclusive("split", "fraction"),),
    job.ControlTokens: (
        (
            "self.system != self.user && self.system != self.assistant && self.system != self.end"
            " && self.user != self.assistant && self.user != self.end && self.assistant != self.end",
            "two control tokens are the same; give four different ones",
        ),
    ),
    # Defaults are checked before their own fields' defaults are there, so a rule asks even for what always has a value.
    job.TemplateSpec: (
        ("has(self.tokens) == (has(self.name) && self.name == 'custom')", "tokens and name: custom go together; set both or neither"),
    ),
    job.Optimizer: (_exclusive("warmupRatio", "warmupSteps"),),
    job.Training: (
        _exclusive("epochs", "maxSteps"),
        ("!has(self.lora) || self.method == 'lora'", "lora is given, but method is full; set method: lora or remove lora"),
    ),
    job.Volume: (
        (
            "[has(self.persistentVolumeClaim), has(self.ephemeral), has(self.emptyDir), has(self.configMap), has(self.secret)]"
            ".filter(given, given).size() == 1",
            "a volume needs exactly one of persistentVolumeClaim, ephemeral, emptyDir, configMap, secret",
        ),
    ),
    job.CheckpointInterval: (("has(self.seconds) != has(self.steps)", "give seconds or steps, and not both"),),
    job.Publish: (_exclusive("hub", "directory"),),
}

_STARTED = "has(oldSelf.status) && has(oldSelf.status.startTime)"
_CREDENTIALS: Final = ("token_secret", "credentials_secret")


def _same(path: str, *, optional: bool = False) -> str:
    """CEL: the field is what it was."""
    new, old = f"self.{path}", f"oldSelf.{path}"
    return f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))" if optional else f"{new} == {old}"


def _same_object(path: str, model: type[BaseModel], *besides: str) -> str:
    """CEL: every field of the object is what it was, save those named."""
    fields = {name: field for name, field in model.model_fields.items() if name not in besides}
    return " && ".join(
        _same(f"{path}.{key(name, model)}", optional=field.default is None and not field.is_required()) for name, field in fields.items()
    )


def _same_sources() -> str:
    """CEL: the sources are what they were, credentials apart: compared field by field, since a list can't be compared in part."""
    same = []
    for name, field in job.DataSource.model_fields.items():
        if name in _CREDENTIALS:
            continue
        yaml_key = key(name, job.DataSource)
        absent = "0" if name == "limit" else "''"
        value = f"s.{yaml_key}" if field.default is not None else f"has(s.{yaml_key}) ? s.{yaml_key} : {absent}"
        same.append(f"self.spec.dataset.sources.map(s, {value}) == oldSelf.spec.dataset.sources.map(s, {value})")
    return " && ".join(same)


def _fixed(what: str, rule: str, remedy: str = "create another job for it") -> tuple[str, str]:
    return f"!({_STARTED}) || ({rule})", f"{what} can't change after the first attempt; {remedy}"


# Before the first attempt everything may change. Afterwards model, data, template and training never, workers while
# suspended, and the rest (credentials, retention, publication, budgets, suspend, retry, TTL) at any time.
ROOT_RULES: Final = (
    (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "a job's name has at most 40 lower-case letters, digits and -",
    ),
    _fixed("spec.model", _same_object("spec.model", job.BaseModelSpec, "token_secret", "cache")),
    _fixed("spec.dataset.sources", _same_sources()),
    _fixed("spec.dataset", _same_object("spec.dataset", job.Dataset, "sources")),
    _fixed("spec.template", _same("spec.template")),
    _fixed("spec.training", _same("spec.training")),
    _fixed(
        "spec.checkpoints.storage",
        " && ".join(_same(f"spec.checkpoints.{name}", optional=True) for name in ("storage", "endpoint", "region")),
    ),
    _fixed("spec.workers", f"oldSelf.spec.suspend || {_same('spec.workers')}", "set suspend: true first, then change workers"),
)


# ---- JSON schema -> structural schema


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
    """Whole numbers have 64 bits."""
    return {**schema, "format": "int64"} if schema.get("type") == "integer" else schema


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


class _Dumper(yaml.SafeDumper):
    """No aliases: kubectl reads them, people don't."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd_yaml() -> str:
    """The CRD as YAML."""
    header = "# Generated by `python -m finetune_api.crd`; change finetune_api and run `make generate`.\n"
    return header + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=140, allow_unicode=True)


if __name__ == "__main__":
    print(crd_yaml(), end="")
