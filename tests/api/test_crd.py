"""The CRD: each rewrite alone, the rules of a structural schema over the whole, and the file in manifests/ against its source."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field
from tests.api.idle_fields import IDLE_CASES
from tests.api.jobs import mapping

from finetune_api import finetunejob as api
from finetune_api.crd import CRDS, JOB_COLUMNS, REPORT_COLUMNS, crd_yaml, finetunejobs
from finetune_api.crd_rules import ROOT_RULES, RULES
from finetune_api.errors import InvalidSpec
from finetune_api.fields import keys
from finetune_api.finetunejob import LARGEST_INTEGER
from finetune_api.finetunejob.types import Spec
from finetune_api.former_words import FORMER_NAMES
from finetune_api.jobfile import parse_job
from finetune_api.structural import (
    structural,
    with_boolean_bounds,
    with_integer_format,
    with_nested_defaults,
    without_closed_objects,
    without_const,
    without_null,
    without_reference,
    without_title,
)

MANIFESTS = Path(__file__).parents[2] / "manifests" / "crd"

# What a node may carry: JSONSchemaProps of apiextensions v1, without what structural schemas forbid.
KEYWORDS = {
    "type", "format", "description", "default", "enum", "properties", "required", "items", "additionalProperties", "nullable",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties",
    "pattern",
    "x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


@pytest.mark.parametrize(
    ("rewrite", "before", "after"),
    [
        (
            without_null,
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
            {"type": "integer", "minimum": 1},
        ),
        (without_null, {"anyOf": [{"$ref": "#/$defs/X"}, {"type": "null"}], "description": "d"}, {"$ref": "#/$defs/X", "description": "d"}),
        (without_null, {"type": "integer", "default": 0}, {"type": "integer", "default": 0}),
        (without_const, {"const": "a", "type": "string"}, {"enum": ["a"], "type": "string"}),
        (with_boolean_bounds, {"exclusiveMinimum": 0.0}, {"minimum": 0.0, "exclusiveMinimum": True}),
        (with_boolean_bounds, {"exclusiveMaximum": 1.0}, {"maximum": 1.0, "exclusiveMaximum": True}),
        (with_boolean_bounds, {"minimum": 0.0, "exclusiveMinimum": True}, {"minimum": 0.0, "exclusiveMinimum": True}),
        (without_closed_objects, {"properties": {}, "additionalProperties": False}, {"properties": {}}),
        (without_closed_objects, {"additionalProperties": True}, {}),
        (without_closed_objects, {"additionalProperties": {"type": "string"}}, {"additionalProperties": {"type": "string"}}),
        (with_nested_defaults, {"default": {"a": 1}}, {"default": {}}),
        (with_nested_defaults, {"default": [1]}, {"default": [1]}),
        (with_integer_format, {"type": "integer"}, {"type": "integer", "format": "int64"}),
        (with_integer_format, {"type": "integer", "maximum": LARGEST_INTEGER}, {"type": "integer", "format": "int64"}),
        (without_title, {"title": "T", "type": "object"}, {"type": "object"}),
        (without_title, {"title": {"type": "string"}}, {"title": {"type": "string"}}),
    ],
)
def test_each_rewrite(rewrite, before, after):
    assert rewrite(before) == after


def test_references_are_replaced_and_keys_beside_them_win():
    definitions = {"X": {"type": "object", "description": "of X"}}
    assert without_reference({"$ref": "#/$defs/X", "description": "here"}, definitions) == {"type": "object", "description": "here"}
    assert without_reference({"type": "string"}, definitions) == {"type": "string"}


def test_rewrites_together():
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        ratio: Annotated[float, Field(gt=0)] | None = None
        kind: Literal["only"] = "only"

    class Outer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        inner: Inner = Inner()
        maybe: Inner | None = None
        several: list[Inner] = []
        labels: dict[str, str] = {}

    inner = {
        "type": "object",
        "properties": {
            "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            "kind": {"type": "string", "enum": ["only"], "default": "only"},
        },
    }
    assert structural(Outer) == {
        "type": "object",
        "properties": {
            "inner": {**inner, "default": {}},
            "maybe": inner,
            "several": {"type": "array", "items": inner, "default": []},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
        },
    }


def structural_errors(schema: dict[str, Any], path: str = "") -> list[str]:
    """What the API server would refuse in a schema."""
    errors = [f"{path}: {keyword} is not allowed" for keyword in schema.keys() - KEYWORDS]
    if schema.get("type") not in ("object", "array", "string", "integer", "number", "boolean"):
        errors.append(f"{path}: type is {schema.get('type')}")
    if "properties" in schema and "additionalProperties" in schema:
        errors.append(f"{path}: properties and additionalProperties")
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        errors.append(f"{path}: array without items")
    if missing := set(schema.get("required", [])) - schema.get("properties", {}).keys():
        errors.append(f"{path}: requires {missing}, which it does not have")
    for bound in ("exclusiveMinimum", "exclusiveMaximum"):
        if bound in schema and (schema[bound] is not True or bound.removeprefix("exclusive").lower() not in schema):
            errors.append(f"{path}: {bound} is {schema[bound]}")
    if "default" in schema and not isinstance(schema["default"], PYTHON_TYPES[schema.get("type", "object")]):
        errors.append(f"{path}: default {schema['default']!r} is of another type")
    if schema.get("default") == {} and set(schema.get("required", [])):
        errors.append(f"{path}: the default {{}} lacks {schema['required']}")
    if "pattern" in schema and re.search(r"\\[wdsbWDSB]|\(\?", schema["pattern"]):
        errors.append(f"{path}: pattern {schema['pattern']} means something else in Go")
    for name, value in schema.get("properties", {}).items():
        errors += structural_errors(value, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            errors += structural_errors(schema[name], f"{path}.{name}")
    return errors


def root_schema(name: str = "finetunejobs") -> dict[str, Any]:
    return CRDS[name]()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


PYTHON_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


@pytest.mark.parametrize("name", CRDS)
def test_the_schema_is_structural(name):
    assert structural_errors(root_schema(name)) == []


@pytest.mark.parametrize("name", CRDS)
def test_everything_has_a_largest_size(name):
    """A report comes from a pod that may be anyone's; and the API server weighs its rules by the largest sizes."""

    def unbounded(schema, path):
        kind = schema["type"]
        if kind == "string" and not schema.keys() & {"enum", "maxLength"}:
            yield path
        if kind == "array" and "maxItems" not in schema:
            yield path
        if "additionalProperties" in schema and "maxProperties" not in schema:
            yield path
        for key in ("items", "additionalProperties"):
            if key in schema:
                yield from unbounded(schema[key], f"{path}.[]")
        for key, value in schema.get("properties", {}).items():
            yield from unbounded(value, f"{path}.{key}")

    properties = root_schema(name)["properties"]
    assert [*unbounded(properties["spec"], "spec"), *unbounded(properties["status"], "status")] == []


def test_an_object_without_a_status_is_not_current_to_kstatus():
    assert node("status")["default"] == {}
    assert node("status.observedGeneration")["default"] == 0


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#/x"}}},
        {"type": "object", "properties": {"a": {"anyOf": []}}},
        {"type": "array"},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "number", "exclusiveMinimum": True},
        {"type": "string", "default": None},
        {"type": "object", "required": ["a"]},
        {"type": "string", "pattern": r"^\w$"},
    ],
)
def test_the_checker_finds_what_is_not(schema):
    assert structural_errors(schema)


def node(path: str, name: str = "finetunejobs") -> dict[str, Any]:
    found = root_schema(name)
    for name in path.split("."):
        found = found["items"] if name == "[]" else found["properties"][name]
    return found


@pytest.mark.parametrize(
    ("path", "keyword", "value"),
    [
        ("spec.training.microBatchSize", "minimum", 1),
        ("spec.training.microBatchSize", "default", 4),
        ("spec.training.optimizer.learningRate", "exclusiveMinimum", True),
        ("spec.training.dropout", "exclusiveMaximum", True),
        ("spec.training.method", "enum", ["full", "lora", "qlora"]),
        ("spec.training.lora.r", "maximum", 4096),
        ("spec.training", "default", {}),
        ("spec.dataset.sources", "maxItems", 64),
        ("spec.dataset.sources.[].format", "default", "auto"),
        ("spec.template.variables", "x-kubernetes-preserve-unknown-fields", True),
        ("spec.workers.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution.[].weight", "maximum", 100),
        ("spec.workers.nodeSelector", "maxProperties", 32),
        ("spec.training.deepspeed.sub_group_size", "default", 10**9),
        ("spec", "required", ["model", "dataset"]),
        ("status.startTime", "format", "date-time"),
        ("status.conditions", "x-kubernetes-list-type", "map"),
        ("status.attempts", "maxItems", 20),
    ],
)
def test_fields_of_the_schema(path, keyword, value):
    assert node(path)[keyword] == value


def test_an_optional_field_has_no_default():
    assert "default" not in node("spec.training.epochs")
    assert "default" not in node("spec.dataset.evaluation")


def test_every_field_is_described():
    def bare(schema, path):
        for name, value in schema.get("properties", {}).items():
            if "description" not in value:
                yield f"{path}.{name}"
            yield from bare(value.get("items", value), f"{path}.{name}")

    assert list(bare(node("spec"), "spec")) == []
    assert list(bare(node("status"), "status")) == []


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
SPREAD: dict[str, Any] = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}

# For each CEL rule a spec that it refuses: pydantic refuses it too, with the same words or about the same field.
RULE_CASES = {
    **{model: [spec for _, spec in cases] for model, cases in IDLE_CASES.items() if model is not api.TemplateSpec},
    api.EvaluationData: [{"dataset": {"evaluation": {"split": "test", "fraction": 0.1}}}],
    api.ControlTokens: [{"template": {"name": "custom", "tokens": {"user": "<x>", "end": "<x>"}}}],
    api.TemplateSpec: [
        {"template": {"name": "custom"}},
        {"template": {"tokens": {}}},
        *(spec for _, spec in IDLE_CASES[api.TemplateSpec]),
    ],
    api.Optimizer: [{"training": {"optimizer": {"warmupRatio": 0.1, "warmupSteps": 1}}}, *(spec for _, spec in IDLE_CASES[api.Optimizer])],
    api.Training: [{"training": {"epochs": 1, "maxSteps": 1}}, *(spec for _, spec in IDLE_CASES[api.Training])],
    api.Lora: [{"training": {"method": "lora", "lora": {"target_modules": ["all-linear", "q_proj"]}}}],
    api.Toleration: [
        {"workers": {"tolerations": [{"key": "k", "operator": "Exists", "value": "v"}]}},
        {"workers": {"tolerations": [{"value": "v"}]}},
        {"workers": {"tolerations": [{"key": "k", "tolerationSeconds": 1}]}},
    ],
    api.EnvVar: [{"workers": {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}}],
    api.ValueFrom: [
        {"workers": {"env": [{"name": "A", "valueFrom": source}]}}
        for source in ({}, {"fieldRef": {"fieldPath": "status.podIP"}, "secretKeyRef": {"name": "s", "key": "k"}})
    ],
    api.EnvFrom: [
        {"workers": {"envFrom": [source]}} for source in ({}, {"secretRef": {"name": "s"}, "configMapRef": {"name": "c"}}, {"prefix": "A"})
    ],
    api.LabelRequirement: [
        {"workers": {"topologySpreadConstraints": [SPREAD | {"labelSelector": {"matchExpressions": [{"key": "k", **one}]}}]}}
        for one in ({"operator": "In"}, {"operator": "Exists", "values": ["v"]})
    ],
    api.NodeRequirement: [
        {"cpuPods": {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", **one}]}]}}}}}
        for one in (
            {"operator": "In"},
            {"operator": "Exists", "values": ["v"]},
            {"operator": "Gt", "values": ["1", "2"]},
            {"operator": "Lt"},
        )
    ],
    api.TopologySpreadConstraint: [{"workers": {"topologySpreadConstraints": [SPREAD | {"minDomains": 2}]}}],
    api.Volume: [
        {"workers": {"volumes": [{"name": "v", "mountPath": "/v", "subPath": path, "emptyDir": {}}]}}
        for path in ("..", "a/../b", "../a", "a/..")
    ]
    + [
        {"workers": {"volumes": [{"name": "v", "mountPath": "/v"}]}},
        {"workers": {"volumes": [{"name": "v", "mountPath": "/v", "emptyDir": {}, "secret": {"name": "s"}}]}},
    ],
    api.Workers: [{"workers": {"minNodes": 2}}, {"workers": {"nodes": 2, "minNodes": 3}}],
    api.CheckpointInterval: [{"checkpoints": {"every": {}}}, {"checkpoints": {"every": {"seconds": 1, "steps": 1}}}],
    api.Publish: [
        {"publish": {"hub": {"repository": "a/b"}, "directory": {"path": "x"}}},
        {"publish": {"hub": {"repository": "a/b"}, "storage": {"path": "s3://bucket/x"}}},
        {"publish": {"directory": {"path": "x"}, "storage": {"path": "s3://bucket/x"}}},
    ],
    api.HubPublication: [
        {"publish": {"hub": {"repository": name}}}
        for name in ("me/my--model", "me/a..b", "me/model.git", "m--e/a", f"me/{'a' * 97}", f"{'a' * 97}/b")
    ],
    api.DirectoryPublication: [
        {"publish": {"directory": {"path": path}}} for path in ("s3://bucket/x", "gs://b/x", "s3:/bucket", "hf://a/b")
    ],
    api.Generation: [{"generation": {"minNewTokens": 300}}, {"generation": {"minNewTokens": 6, "maxNewTokens": 5}}],
}


def subclasses(model: type[BaseModel]) -> list[type[BaseModel]]:
    direct = model.__subclasses__()
    return direct + [below for each in direct for below in subclasses(each)]


def test_every_validator_of_the_spec_has_a_rule_and_a_case():
    sections = [model for model in subclasses(Spec) if model.__module__.startswith("finetune_api.")]
    validated = {model for model in sections if model.__pydantic_decorators__.model_validators.keys() > {"_fields_act"} or model.EFFECTS}
    assert validated == RULES.keys() == RULE_CASES.keys()


@pytest.mark.parametrize("spec", [spec for cases in RULE_CASES.values() for spec in cases])
def test_what_a_rule_refuses_pydantic_refuses(spec):
    with pytest.raises(InvalidSpec):
        parse_job(mapping(**spec))


@pytest.mark.parametrize("model", [model for model in RULES if model is not api.ControlTokens], ids=lambda model: model.__name__)
def test_a_rule_asks_before_it_reads(model):
    """The API server tries rules on a default of {}, where every field is absent. ControlTokens has no such default."""
    for rule, _ in RULES[model]:
        read = set(re.findall(r"(?<!has\()self\.(\w+)", rule))
        guarded = set(re.findall(r"has\(self\.(\w+)\)", rule))
        needed = {key for key, name in keys(model).items() if model.model_fields[name].is_required()}
        # A stored source may have a former word alone.
        assert read <= guarded | (needed - set(FORMER_NAMES) if model is api.DataSource else needed)


def test_rules_stand_at_their_objects():
    assert node("spec.training")["x-kubernetes-validations"][0] == {
        "rule": "!(has(self.epochs) && has(self.maxSteps))",
        "message": "epochs and maxSteps exclude each other; keep one",
    }
    assert len(node("spec.workers.volumes.[]")["x-kubernetes-validations"]) == 2
    assert len(root_schema()["x-kubernetes-validations"]) == len(ROOT_RULES)


@pytest.mark.parametrize(
    "path", ["spec.model.name", "spec.dataset.overlongTurns", "spec.template", "spec.training", "spec.checkpoints.storage"]
)
def test_what_never_changes_after_the_start(path):
    rules = [rule for rule, _ in ROOT_RULES if f"self.{path} == oldSelf.{path}" in rule]
    assert len(rules) == 1
    assert rules[0].startswith("!(has(oldSelf.status) && has(oldSelf.status.startTime)) || (")


def test_workers_change_when_nothing_runs_only():
    ((rule, message),) = [found for found in ROOT_RULES if "self.spec.workers" in found[0]]
    assert rule.endswith(" || self.spec.workers == oldSelf.spec.workers)")
    assert "c.type == 'Failed' || (c.type == 'Suspended' && oldSelf.spec.suspend)" in rule
    remedy = "set suspend: true first, wait for the condition Suspended, and change it then"
    assert message == f"spec.workers can't change after the first attempt; {remedy}"


@pytest.mark.parametrize(
    "free", ["tokenSecret", "credentialsSecret", "cache", "keep", "spec.publish", "spec.retry", "spec.budget", "spec.evaluation"]
)
def test_what_may_change_at_any_time_is_in_no_rule(free):
    rules = " ".join(rule for rule, _ in ROOT_RULES).replace("spec.dataset.evaluation", "")
    assert free not in rules


def test_a_rule_says_has_before_it_reads_what_may_be_absent():
    rules = " ".join(rule for rule, _ in ROOT_RULES)
    assert "has(self.spec.dataset.evaluation) == has(oldSelf.spec.dataset.evaluation)" in rules
    assert "has(s.limit) ? s.limit : 0" in rules
    assert "has(s.path) ? s.path : has(s.name) ? s.name : ''" in rules


def test_names_and_columns():
    spec = finetunejobs()["spec"]
    assert spec["names"]["shortNames"] == ["ftj"]
    assert spec["versions"][0]["subresources"] == {"status": {}}
    shown = [column["name"] for column in JOB_COLUMNS if not column["priority"]]
    wide = [column["name"] for column in JOB_COLUMNS if column["priority"]]
    assert (shown, wide) == (["Stage", "Step", "Loss", "ETA", "Attempt", "Age"], ["Model", "Tokens/s", "Checkpoint", "Published"])


def test_columns_read_fields_that_exist():
    for name, columns in (("finetunejobs", JOB_COLUMNS), ("finetunereports", REPORT_COLUMNS)):
        for column in columns:
            if not column["jsonPath"].startswith(".metadata"):
                found = node(column["jsonPath"].lstrip("."), name)
                assert column["type"] == ("date" if found.get("format") == "date-time" else found["type"])


@pytest.mark.parametrize("name", CRDS)
def test_the_manifest_is_what_the_source_generates(name):
    text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text == crd_yaml(name), "run make generate"
    assert yaml.safe_load(text) == CRDS[name]()
    as_kept = json.dumps(CRDS[name](), separators=(",", ":"))
    assert len(as_kept) < 200_000  # kubectl apply keeps a copy in an annotation, of 262144 bytes at most
    assert "{{" not in text  # it becomes a template of the chart
