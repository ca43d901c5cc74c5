"""A key that no object of a job has: which of ours was meant, or that there is nothing of the kind."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from finetune_api.fields import keys, nearest, owner, paths
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.foreign_names import foreign, plain

# Also looked for in what a pod says whose image is older than the operator.
NO_SUCH_FIELD = "there is no such field"


def unknown_at(loc: Sequence[str | int], value: Any, root: type[BaseModel]) -> tuple[str, str]:
    """Message and remedy for the key that ends `loc`, below `root`.

    >>> from finetune_api.finetunejob import FineTuneJob
    >>> unknown_at(("spec", "training", "gradientAccumulationSteps"), 8, FineTuneJob)[1].partition(': ')[0]
    'here it is spec.training.globalBatchSize'
    """
    found = owner(loc, root)
    if found is None:
        return NO_SUCH_FIELD, "remove it"
    section = next((part for part in reversed(loc[:-1]) if isinstance(part, str)), "")
    return unknown_key(found[1], section, value, found[0])


def unknown_key(name: str, section: str, value: Any, model: type[BaseModel], *, at: str = "") -> tuple[str, str]:
    """Message and remedy for the key `name` in an object of `model` below the key `section`. `at` comes before the object's own keys.

    Asked in turn: what another trainer means by it here, the same word here in other letters, another trainer's word unless it is ours
    too, the same word elsewhere, a like one here, a like one elsewhere.
    """
    if meant := foreign(name, section):
        return NO_SUCH_FIELD, meant.remedy(value)
    same = {plain(known): known for known in keys(model)}
    if like := same.get(plain(name)):
        return NO_SUCH_FIELD, f"did you mean {at}{like}?"
    everywhere = _fields()
    if (meant := foreign(name)) and not _is_plain(everywhere.get(name), meant.ours):
        return NO_SUCH_FIELD, meant.remedy(value)
    if name in everywhere:
        return NO_SUCH_FIELD, f"did you mean {everywhere[name]}?"
    if like := nearest(name, keys(model)):
        return NO_SUCH_FIELD, f"did you mean {at}{like}?"
    if like := nearest(name, everywhere):
        return NO_SUCH_FIELD, f"did you mean {everywhere[like]}?"
    return NO_SUCH_FIELD, f"its keys are {', '.join(keys(model))}"


def _fields() -> dict[str, str]:
    """Each key of a spec and the first path that it ends."""
    found: dict[str, str] = {}
    for path in paths(FineTuneJobSpec):
        found.setdefault(path.rsplit(".", 1)[-1], path)
    return found


def _is_plain(path: str | None, meant: str | None) -> bool:
    """Whether the field there is what is meant, and holds no fields, so that its path says it all."""
    return (
        path is not None
        and path == f"spec.{meant}"
        and not any(known.startswith((f"{path}.", f"{path}[].")) for known in paths(FineTuneJobSpec))
    )
