"""Whether a field of a job takes a value, in the words of a job's own errors; and what it has where it is absent."""

from copy import deepcopy
from typing import Any, Final

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.fields import field_kind
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.jobfile import parse_job
from finetune_assistant.drafting.fields_below import nested, put, removed

SOURCE: Final = "dataset.sources[]."
_SOURCE_0: Final = "spec.dataset.sources[0]."
_MODEL: Final = "spec.model."


def taken_together(fields: dict[str, Any], *, of_source: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields that a source (or the model) has beside one another, and by path why it hasn't the others. The first problem decides.

    >>> taken_together({"path": "./x.jsonl", "config": "en"}, of_source=True)[0]
    {'path': './x.jsonl'}
    """
    fields, refused = deepcopy(fields), dict[str, str]()
    while problem := _problem_of(fields, of_source=of_source):
        path = problem.field.removeprefix(_SOURCE_0 if of_source else _MODEL)
        if path in ("path", "name") or nested(fields, path) is None:
            raise InvalidSpec([problem])
        removed(fields, path)
        refused[path] = told(problem)
    return fields, refused


def _problem_of(fields: dict[str, Any], *, of_source: bool) -> Problem | None:
    spec = {"dataset": {"sources": [fields]}} if of_source else {"model": fields, "dataset": {"sources": [{"path": "org/data"}]}}
    try:
        parse_job({"metadata": {"name": "x"}, "spec": {"model": {"name": "org/model"}} | spec})
    except InvalidSpec as error:
        return error.problems[0]
    return None


def problem_with(path: str, value: Any) -> str | None:
    """Why a field doesn't take the value; None where it does. `path`: below spec; of a source, below `dataset.sources[]`.

    >>> problem_with("training.epochs", 0), problem_with("dataset.sources[].limit", 10)
    ('spec.training.epochs 0 is less than 1; use at least 1', None)
    """
    source: dict[str, Any] = {"path": "org/data"}
    spec: dict[str, Any] = {"model": {"name": "org/model"}, "dataset": {"sources": [source]}}
    is_of_source = path.startswith(SOURCE)
    if path.startswith("evaluation."):  # which acts on held-out data
        put(spec, "dataset.evaluation.fraction", 0.1)
    if path.startswith("training.lora"):
        put(spec, "training.method", "lora")
    put(source if is_of_source else spec, path.removeprefix(SOURCE), value)
    try:
        parse_job({"metadata": {"name": "x"}, "spec": spec})
    except InvalidSpec as error:
        field = "spec.dataset.sources[0]" if is_of_source else f"spec.{path}"
        return next((told(problem) for problem in error.problems if problem.field.startswith(field)), None)
    return None


def told(problem: Problem) -> str:
    """A problem of a job in a sentence."""
    return "; ".join(filter(None, (f"{problem.field} {problem.message}", problem.remedy)))


def default_of(path: str) -> Any:
    """What a job has where the field is absent; None where that is nothing, or a field that there isn't."""
    *above, last = path.split(".")
    model: Any = FineTuneJobSpec
    for name in above:
        found = field_kind(model, name)
        if found is None or found.model is None:
            return None
        model = found.model
    return next((info.default for name, info in model.model_fields.items() if (info.alias or name) == last), None)
