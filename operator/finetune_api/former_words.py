"""Words of jobs that were applied, and of runs that were frozen, before a field was renamed. Pure.

A definition that forgot such a field would drop it from stored jobs, and an image that began a run reads that run's words. A job file is
answered with today's word.
"""

from collections.abc import Mapping
from typing import Any, Final

from finetune_api.finetunejob import Lora

Json = dict[str, Any]

# Runs of contract 1 name a source where later ones give its path.
_CONTRACT_OF_NAMES: Final = 1

# What required fields of a source were called before: a stored one may have that alone.
FORMER_NAMES: Final = {"path": "name"}

# Fields that the first operator doesn't know, of objects that it knows. It refuses a job that has them, and the API server would add their
# defaults to each job: so the definition gives none, the models do, and a job of the first chart can be given back to it.
LATER_FIELDS: Final = frozenset(
    {
        *(f"dataset.sources[].{name}" for name in ("messagePropertyMappings", "roles", "html", "filter.rejected")),
        "dataset.leadingAssistantTurns",
        "template.maxExamplesPerDialogue",
        "training.attentionDropout",
        "training.recomputedLayers",
        *(f"training.deepspeed.{name}" for name in ("offload_optimizer", "offload_param")),  # the first operator knows them, as absent
        "training.optimizer.decayRatio",
        "training.optimizer.minimumLearningRateRatio",
        *(f"{pods}.{name}" for pods in ("workers", "cpuPods") for name in ("imagePullSecrets", "labels", "annotations", "envFrom")),
        "workers.collectiveTimeoutSeconds",
        *(f"evaluation.{name}" for name in ("tasks", "batchSize", "judge.limit", "judge.maxTokens")),
        "publish.card",
        "publish.merge",
        *(f"training.lora.{name}" for name in Lora.model_fields),
        "reportTo",
        *(f"failurePolicy.{name}" for name in ("maxFailedStarts", "maxAttemptsWithoutProgress", "halveMicroBatchSize")),
        "budget.stageDeadlineSeconds",
    }
)

# A source of a stored job, beside what the models have. New ones can't use it: `path` is required of whatever changes.
FORMER_SOURCE: Final = {
    "name": {"type": "string", "maxLength": 1024, "description": "What `path` was called before; read of jobs that have it already."}
}


def in_todays_words(job: Mapping[str, Any]) -> Json:
    """The job with the paths of sources that still have names.

    >>> in_todays_words({"spec": {"dataset": {"sources": [{"name": "org/data"}]}}})
    {'spec': {'dataset': {'sources': [{'path': 'org/data'}]}}}
    """
    return _with_sources(job, lambda source: _renamed(source, "name", "path"))


def in_words_of(contract: int, job: Mapping[str, Any]) -> Json:
    """The job as an image reads it whose runs are of that contract.

    >>> in_words_of(1, {"spec": {"dataset": {"sources": [{"path": "org/data"}]}}})
    {'spec': {'dataset': {'sources': [{'name': 'org/data'}]}}}
    """
    return _with_sources(job, lambda source: _renamed(source, "path", "name")) if contract <= _CONTRACT_OF_NAMES else dict(job)


def without_later_defaults(spec: Json) -> None:
    """Remove defaults of later fields from the schema of a spec.

    >>> schema = {"properties": {"reportTo": {"type": "array", "default": ["tensorboard"]}}}
    >>> without_later_defaults(schema)
    >>> schema
    {'properties': {'reportTo': {'type': 'array'}}}
    """
    _without_defaults(spec, "")


def _without_defaults(schema: Json, path: str) -> None:
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        if below in LATER_FIELDS:
            field.pop("default", None)
        _without_defaults(field, below)
    if "items" in schema:
        _without_defaults(schema["items"], f"{path}[]")


def _with_sources(job: Mapping[str, Any], changed: Any) -> Json:
    spec = job.get("spec")
    dataset = spec.get("dataset") if isinstance(spec, dict) else None
    sources = dataset.get("sources") if isinstance(dataset, dict) else None
    if not isinstance(spec, dict) or not isinstance(dataset, dict) or not isinstance(sources, list):
        return dict(job)
    return {**job, "spec": {**spec, "dataset": {**dataset, "sources": [changed(source) for source in sources]}}}


def _renamed(source: Any, old: str, new: str) -> Any:
    if not isinstance(source, dict) or old not in source or new in source:
        return source
    return {new if key == old else key: value for key, value in source.items()}
