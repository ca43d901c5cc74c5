"""Fields that the first definition of a FineTuneJob had and that are gone. Pure.

None was ever built: with a value that asked for something the job was refused, with any other the field did nothing. A stored job may have
either; which it shows depends on the definition that the API server has, since today's drops the fields.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Json = dict[str, Any]


def _has_no_adapter(spec: Json, value: Any) -> bool:
    is_full = spec["training"].get("method", "full") == "full"
    return is_full and isinstance(value, dict) and value.keys() <= {"rank", "alpha", "dropout", "targetModules"}


# Below `spec`, and whether it did nothing.
_GONE: Final[Mapping[str, Callable[[Json, Any], bool]]] = {
    # Settings under other names than PEFT's, of a method that was refused itself; today's definition leaves an empty object of them.
    "training.lora": _has_no_adapter,
    "evaluation.benchmarks": lambda spec, value: value == [],
    "publish.hub.when": lambda spec, value: value == "end",
}


def without_gone_fields(job: Mapping[str, Any]) -> Json:
    """The job without those that do nothing; what asks for something stays, and is refused.

    >>> without_gone_fields({"spec": {"publish": {"hub": {"when": "end"}}, "evaluation": {"benchmarks": ["mmlu"]}}})
    {'spec': {'publish': {'hub': {}}, 'evaluation': {'benchmarks': ['mmlu']}}}
    """
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return dict(job)
    found = spec
    for path, did_nothing in _GONE.items():
        names = path.split(".")
        value = _value(spec, names)
        if value is None or did_nothing(spec, value):
            found = _without(found, names)
    return {**job, "spec": found}


def gone_fields_in(words: str) -> tuple[str, ...]:
    """Those that the words of a refusal name.

    >>> gone_fields_in("spec.evaluation.benchmarks: benchmarks are not built yet; remove it")
    ('spec.evaluation.benchmarks',)
    """
    return tuple(f"spec.{path}" for path in _GONE if f"spec.{path}:" in words)


def _value(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _without(value: Any, names: list[str]) -> Any:
    first, *rest = names
    if not isinstance(value, dict) or first not in value:
        return value
    if rest:
        return {**value, first: _without(value[first], rest)}
    return {name: item for name, item in value.items() if name != first}
