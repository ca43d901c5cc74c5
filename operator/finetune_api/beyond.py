"""What `plan` would refuse in a job that is also malformed, so that a user hears of everything in one go.

In: the mapping, pydantic's errors and the problems made of them. The malformed parts are left out and the rest is planned.
A refusal that could come from what was left out is not repeated: it may vanish with the correction.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import FineTuneJob
from finetune_api.plan import plan

_WORKERS = {"workers", "nodes", "gpusPerNode", "workersPerNode", "device"}


def problems_beyond(data: dict[str, Any], errors: Sequence[ErrorDetails], known: Sequence[Problem]) -> list[Problem]:
    """Refusals of `plan` for the well-formed part of `data`, those that don't depend on the malformed one."""
    rest = copy.deepcopy(data)
    try:
        for error in errors:
            _remove(rest, error["loc"])
        job = FineTuneJob.model_validate(rest, by_alias=True, by_name=False)
        plan(job, None, None)
    except ValidationError:  # something that has no default is missing or malformed
        return []
    except InvalidSpec as refused:
        doubtful = _names(known)
        return [problem for problem in refused.problems if _is_written(rest, problem.field) and not _words(problem) & doubtful]
    return []


def _remove(data: Any, loc: Sequence[str | int]) -> None:
    """Take out what `loc` leads to. Items of lists stay, so that the others keep their places."""
    for part in loc[:-1]:
        children = dict(enumerate(data)) if isinstance(data, list) else data
        data = children.get(part) if isinstance(children, dict) else None
    if isinstance(data, dict):
        data.pop(loc[-1], None)


def _names(known: Sequence[Problem]) -> set[str]:
    """Fields that a correction will change: the last names of the malformed ones and of what was meant instead."""
    meant = [match for problem in known for match in re.findall(r"did you mean ([\w.]+)\?", problem.remedy)]
    names = {name.rsplit(".", 1)[-1] for name in (*(problem.field for problem in known), *meant)}
    return names | ({"worldSize"} if names & _WORKERS else set())


def _words(problem: Problem) -> set[str]:
    return set(re.findall(r"\w+", f"{problem.field} {problem.message}"))


def _is_written(data: Any, field: str) -> bool:
    """Whether the user wrote the field: a refusal of a default that another section asks for would puzzle."""
    for part in re.findall(r"\w+", field):
        if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict) and part in data:
            data = data[part]
        else:
            return False
    return True
