"""Good and bad values for every field of a model, made from pydantic's own JSON schema, always the same ones.

Which are good is for the caller to find out: they exist to ask two judges, pydantic and an API server, and compare.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]
Wrap = Callable[[Any], Any]

# What a typing slip makes of a value.
OF_ANOTHER_TYPE = (None, True, 1, 1.5, "x", "1", [], {}, [None])
# Each is good for some pattern of the schema, and bad for most.
TEXTS = (
    "a", "a1", "name", "a-b", "a.b", "a..b", "-a", "a-", "A", "a b", "a_b", "a/b", "org/name", "a/b/c", "a:b", "1", "7b", "0.5",
    "64Gi", "500m", "64GB", "-1", "1e3", "http://host:9000", "https://host/path", "ftp://host", "/abs", "/abs:x", "relative",
    "status.podIP", "metadata.labels['a']", "limits.cpu",
    "a\n", "\n", " ", "", "null", "\u00e9", "\u4e2d\u6587", "\U0001f600", "a\u0000b", "a\u200bb", "..", ".", "registry/image:tag@sha256:00",
)  # fmt: skip
# What has to stand beside a field, or instead of the smallest object, so that the field itself is judged.
BESIDE = {
    ("TemplateSpec", "tokens"): {"name": "custom"},
    ("Training", "lora"): {"method": "lora"},
    ("Optimizer", "decayRatio"): {"schedule": "wsd"},
    ("Toleration", "value"): {"key": "k"},
    ("Toleration", "tolerationSeconds"): {"key": "k", "effect": "NoExecute"},
    ("CheckpointInterval", "seconds"): {},
    ("DataSource", "credentialsSecret"): {"path": "s3://bucket/data"},
    ("FineTuneJobSpec", "evaluation"): {
        "model": {"name": "a"},
        "dataset": {"sources": [{"path": "a"}], "evaluation": {"fraction": 0.5}},
    },
    ("FineTuneJobSpec", "publish"): {
        "model": {"name": "a"},
        "dataset": {"sources": [{"path": "a"}], "evaluation": {"fraction": 0.5}},
        "evaluation": {"judge": {"model": "m"}},
    },
    **{("Evaluation", name): {"tasks": ["a"]} for name in ("numFewshot", "limit", "taskData", "batchSize", "pod")},
    **{
        ("Volume", source): {"name": "v", "mountPath": "/v"}
        for source in ("persistentVolumeClaim", "ephemeral", "configMap", "secret", "csi")
    },
    **{("ValueFrom", source): {} for source in ("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef")},
    **{("EnvFrom", source): {} for source in ("secretRef", "configMapRef")},
    **{(kind, "values"): {"key": "k", "operator": "In"} for kind in ("LabelRequirement", "NodeRequirement")},
    ("Workers", "minNodes"): {"nodes": 64},
    ("TopologySpreadConstraint", "minDomains"): {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"},
}
# Fields that few of the values beside them allow, so that most whole specs would be bad.
SELDOM_GOOD = {
    ("DataSource", "credentialsSecret"),
    ("DataSource", "filter"),
    ("DataSource", "columns"),
    ("Training", "lora"),
    ("Optimizer", "decayRatio"),
    ("EnvVar", "valueFrom"),
    *(("Evaluation", name) for name in ("everyEpochs", "everySteps", "numFewshot", "limit", "taskData", "batchSize", "pod")),
    ("Gate", "judgeWinRate"),
    ("Workers", "minNodes"),
    *(
        (pods, name)
        for pods in ("PodSettings", "Workers", "EvaluationPod")
        for name in ("envFrom", "affinity", "topologySpreadConstraints")
    ),
}
# The smallest good object where a rule asks for more than the required fields.
SMALLEST = {
    "Volume": {"name": "v", "mountPath": "/v", "emptyDir": {}},
    "Toleration": {"operator": "Exists"},
    "ValueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
    "EnvFrom": {"secretRef": {"name": "s"}},
    "LabelRequirement": {"key": "k", "operator": "Exists"},
    "NodeRequirement": {"key": "k", "operator": "Exists"},
    "CheckpointInterval": {"steps": 1},
    "Condition": {"type": "Planned", "status": "True", "reason": "Planned", "lastTransitionTime": "2026-11-23T10:00:00Z"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One value of one field; `path` as in spec.dataset.sources[].path."""

    path: str
    value: Any
    whole: Any

    def __str__(self) -> str:
        return f"{self.path} = {self.value!r:.80}"


class Generator:
    """Values for a model and everything below it."""

    def __init__(self, model: type[BaseModel], *, closed: bool = True) -> None:
        """`closed`: the model refuses unknown keys; one that ignores them gets none."""
        self._closed = closed
        self.root: Schema = model.model_json_schema(by_alias=True)
        self._definitions = self.root.get("$defs", {})
        self._seen: set[Any] = set()

    def cases(self, path: str, wrap: Wrap = lambda value: value) -> Iterator[Case]:
        """Each field's values, each in the smallest whole that holds it; `wrap` puts the model's object into the whole.

        What is inside an object that several fields hold is tried at the first of them, and all texts and numbers only at the
        first field of those with the same bounds.
        """
        self._seen.clear()
        return self._cases(self.root, path, wrap)

    def smallest(self) -> Any:
        """The smallest good object."""
        return self._smallest(self.root)

    def at_random(self, seed: int, *, share_bad: float = 0.0) -> Any:
        """An object with some of its fields, each good by itself, save the share that is drawn from everything."""
        return self._at_random(self.root, random.Random(seed), share_bad)

    def _resolved(self, schema: Schema) -> Schema:
        """Without $ref and without null."""
        options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
        if options:
            return self._resolved({**{name: value for name, value in schema.items() if name != "anyOf"}, **options[0]})
        if "$ref" in schema:
            return self._resolved(self._definitions[schema["$ref"].removeprefix("#/$defs/")])
        return schema

    def _cases(self, schema: Schema, path: str, wrap: Wrap) -> Iterator[Case]:
        schema = self._resolved(schema)
        for value in unique([*OF_ANOTHER_TYPE, *self._values_once(schema)]):
            yield Case(path, value, wrap(value))
        if schema.get("title") in self._seen:
            return
        if "properties" in schema:
            self._seen.add(schema["title"])
        for name, inner in schema.get("properties", {}).items():
            beside = BESIDE.get((schema["title"], name), self._smallest(schema))
            yield from self._cases(inner, f"{path}.{name}", lambda value, beside=beside, name=name: wrap({**beside, name: value}))
            if name in schema.get("required", ()):
                lacking = {key: value for key, value in self._smallest(schema).items() if key != name}
                yield Case(f"{path}.{name}", "(missing)", wrap(lacking))
        if "items" in schema:
            yield from self._cases(schema["items"], f"{path}[]", lambda value: wrap([value]))
        if isinstance(schema.get("additionalProperties"), dict):
            yield from self._cases(schema["additionalProperties"], f"{path}.*", lambda value: wrap({"key": value}))

    def _values_once(self, schema: Schema) -> list[Any]:
        """All values where the bounds are new, a good one and the last two where they are not."""
        values = self._values(schema)
        bounds = repr(sorted((name, value) for name, value in schema.items() if name not in ("title", "description", "default")))
        if schema["type"] not in ("string", "integer", "number") or "enum" in schema or bounds not in self._seen:
            self._seen.add(bounds)
            return values
        return [self._smallest(schema), *values[-2:]]

    def _values(self, schema: Schema) -> list[Any]:
        """Good and bad ones of the schema's own type."""
        if "enum" in schema or "const" in schema:
            choices = schema.get("enum", [schema.get("const")])
            return [*choices, *(choice.upper() for choice in choices), "", choices[0] + " ", choices[0] + "\n"]
        return {
            "integer": integers,
            "number": numbers,
            "string": strings,
            "array": self._arrays,
            "object": self._objects,
        }.get(schema["type"], lambda _: [False])(schema)

    def _arrays(self, schema: Schema) -> list[Any]:
        item, most = self._smallest(schema["items"]), schema["maxItems"]
        return [[item], [item] * most, [item] * (most + 1), [item, None], {"0": item}, [[item]]]

    def _objects(self, schema: Schema) -> list[Any]:
        if "properties" in schema:
            smallest = self._smallest(schema)
            known = next(iter(schema["properties"]))
            slips = ("unknown", known.upper(), known + "s") if self._closed else ()
            return [smallest, *({**smallest, name: value} for name in slips for value in (1, None))]
        if not isinstance(schema["additionalProperties"], dict):
            return [{"a": {"b": [1, None, {"c": 1.5}]}}, {"a": None}, {"": ""}, {"nodeAffinity": {}}]
        item, most = self._smallest(schema["additionalProperties"]), schema["maxProperties"]
        return [
            {"k": item},
            {"k": None},
            {"k": 1},
            {"": item},
            {"a.b/c": item},
            *({f"k{index}": item for index in range(count)} for count in (most, most + 1)),
        ]

    def _smallest(self, schema: Schema) -> Any:
        schema = self._resolved(schema)
        if schema.get("title") in SMALLEST:
            return SMALLEST[schema["title"]]
        if "properties" in schema:
            return {name: self._smallest(schema["properties"][name]) for name in schema.get("required", ())}
        if schema["type"] == "array":
            return [self._smallest(schema["items"])] * schema.get("minItems", 0)
        return {} if schema["type"] == "object" else next(value for value in self._values(schema) if is_good(value, schema))

    def _at_random(self, schema: Schema, chance: random.Random, share_bad: float) -> Any:
        schema = self._resolved(schema)
        if chance.random() < share_bad:
            return chance.choice([*OF_ANOTHER_TYPE, *self._values(schema)])
        if "properties" in schema:
            required = schema.get("required", ())
            chosen = {
                name: inner
                for name, inner in schema["properties"].items()
                if name in required or chance.random() < (0.02 if (schema["title"], name) in SELDOM_GOOD else 0.25)
            }
            return {name: self._at_random(inner, chance, share_bad) for name, inner in chosen.items()}
        if schema["type"] == "array":
            count = chance.randint(max(1, schema.get("minItems", 0)), 3)
            return [self._at_random(schema["items"], chance, share_bad) for _ in range(count)]
        if schema["type"] == "object":
            return {}
        return chance.choice([value for value in self._values(schema) if is_good(value, schema)])


def integers(schema: Schema) -> list[Any]:
    """Around the bounds, in both notations, and around what 53 and 64 bits hold."""
    least = schema["minimum"]
    near = [least - 1, least, least + 1, float(least), float(least) + 1, float(least) - 1, -1, 1e3]
    return [*near, 2**53 - 1, float(2**53 - 1), 2**53, float(2**53), 1e17, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 1e300, str(least)]


def numbers(schema: Schema) -> list[Any]:
    """Around the bounds, in both notations."""
    bounds = [schema[name] for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if name in schema]
    near = [value for bound in bounds for value in (bound, int(bound), bound - 1e-9, bound + 1e-9, bound - 1, bound + 1)]
    return [0.5, *near, 0, -0.0, 1, 0.1, 1e-12, 1e300, -1e300, 2**63, 10**30, "0.5", "1e-5"]


def strings(schema: Schema) -> list[Any]:
    """Of many forms, and around the bounds in characters of one and four bytes."""
    most = schema["maxLength"]
    return [*TEXTS, *("a" * (most + more) for more in (-1, 0, 1)), "\U0001f600" * most, "\U0001f600" * (most + 1), "/" + "a" * most]


def is_good(value: Any, schema: Schema) -> bool:
    """Whether a plain value is in the schema's bounds."""
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema["type"] == "string":
        return schema.get("minLength", 0) <= len(value) <= schema["maxLength"] and bool(re.search(schema.get("pattern", ""), value))
    if schema["type"] == "boolean":
        return isinstance(value, bool)
    if isinstance(value, str) or (schema["type"] == "integer" and isinstance(value, float)):
        return False
    return (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
        and value < schema.get("exclusiveMaximum", value + 1)
    )


def unique(values: list[Any]) -> list[Any]:
    """Without repetitions; 1, 1.0 and true are three values."""
    return list({f"{type(value).__name__} {value!r}": value for value in values}.values())
