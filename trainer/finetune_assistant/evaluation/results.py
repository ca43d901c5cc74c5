"""What an evaluation found, as values and as JSON: the form that the model card and a job's status take.

The JSON names its form in `schema`; a field is added without a new name, and never changes its meaning under an old one. Beside every
number stands what it depends on: shots, limit, documents, whether a chat template was used. How numbers come about is not known here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

SCHEMA = "finetune-evaluation/1"
# By document: what one question, or one answer, contributed to a mean.
ByDocument = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number. `standard_error` is None where the library gives none; `limit` None when all `documents_there` were asked.

    `group` names the group whose mean this is part of, None for what was asked for by name. `samples`: answers drawn for each document.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    shots: int
    limit: int | None
    documents: int
    documents_there: int
    chat_template: bool
    higher_is_better: bool = True
    group: str | None = None
    samples: int | None = None
    by_document: ByDocument = field(default_factory=dict, repr=False)

    @property
    def is_mean(self) -> bool:
        """Whether the number is the mean over documents, so that documents can be paired with another model's."""
        values = self.by_document.values()
        return bool(values) and abs(sum(values) / len(values) - self.value) < 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """A model and what was measured of it. A folder has a `digest` (sha256 over its files), a model of the Hub a `revision`."""

    model: str
    digest: str | None
    revision: str | None
    dtype: str
    device: str
    window: int
    seconds: float
    results: Sequence[Measurement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much higher `tuned` is than `base` on the same documents, with a 95 % interval."""

    base: str
    tuned: str
    task: str
    metric: str
    difference: float
    standard_error: float
    low: float
    high: float
    documents: int
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """What the interval says: `better`, `worse` or `no difference shown`."""
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All of one command: the first model is the base that the others are compared with."""

    models: Sequence[EvaluatedModel]
    differences: Sequence[Difference]
    settings: Mapping[str, Any]
    notes: Sequence[str]
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


def to_object(evaluation: Evaluation) -> dict[str, Any]:
    """The JSON object: names in camelCase, documents one by one left out."""
    return {
        "schema": SCHEMA,
        "created": evaluation.created.isoformat(timespec="seconds"),
        "libraries": _versions(),
        "settings": dict(evaluation.settings),
        "models": [_object(model) | {"results": [_object(one) for one in model.results]} for model in evaluation.models],
        "differences": [_object(difference) | {"verdict": difference.verdict} for difference in evaluation.differences],
        "notes": list(evaluation.notes),
    }


def to_json(evaluation: Evaluation) -> str:
    """Text of the results file, with its newline. JSON has no NaN: such a number is null."""
    return json.dumps(to_object(evaluation), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _object(value: Any) -> dict[str, Any]:
    names = [each.name for each in fields(value) if each.name not in ("by_document", "results")]
    return {_camel(name): _plain(getattr(value, name)) for name in names}


def _plain(value: Any) -> Any:
    import math

    return None if isinstance(value, float) and not math.isfinite(value) else value


def _camel(name: str) -> str:
    """A Python name as JSON has it.

    >>> _camel("standard_error")
    'standardError'
    """
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("finetune-operator", "lm-eval", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
