"""A remedy as a person would follow it: the words of a message become changes of the job, each of which has to make the problem vanish."""

import copy
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from tests.api.generated_specs import Generator

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.fields import accepts, at, kind
from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_api.plan import cluster_plan
from finetune_api.yaml_text import yaml_value

Job = dict[str, Any]
Path = list[str | int]

# What a person puts where the remedy names a kind of value and no value.
EXAMPLES = {
    "write a whole number": [64],
    "write a number in": [0.5],
    "write a number without": [0.5],
    "write a number": [0.5],
    "write a finite number": [0.5],
    "write an absolute path": ["/x"],
    "write it as org/name": ["org/name"],
    "write org/name, ./path": ["org/name", "./path", "s3://bucket/key"],
    "write s3://bucket/key": ["s3://bucket/key"],
    "write s3://bucket/prefix": ["s3://bucket/prefix"],
    "write the path from / on": ["/x/rows.jsonl"],
    "write a path": ["/x"],
    "write a Kubernetes quantity, for example 500m, 8, 64Gi": ["500m", "8", "64Gi"],
    "give plain text": ["a"],
    "use lower-case letters, digits and `-`": ["a-1"],
    "name a resource, for example nvidia.com/gpu": ["nvidia.com/gpu"],
    "name a resource, for example limits.cpu": ["limits.cpu"],
    "name a key, for example": ["kubernetes.io/hostname"],
    "name a field of a pod, for example": ["status.podIP"],
    "name a path inside the volume": ["a/b"],
    "use letters, digits and `_`": ["A_1"],
    "use letters, digits and `.`, `_`, `-`": ["a.b-c_1"],
    "use s3://bucket/prefix, or an absolute path on a volume": ["s3://bucket/prefix"],
    "use s3://bucket/prefix": ["s3://bucket/prefix"],
    "use a Hub id, s3://bucket/key": ["org/name", "s3://bucket/key"],
    "set it to s3://bucket/prefix": ["s3://bucket/prefix"],
    "set it to the number of CPU workers, for example 2": [2],
    "it must match": [],
}

# One of them is good for each field that may be missing.
ADDED = ("a", 64, 0.5, "1Gi", "org/name", "/x", "s3://bucket/x", "http://x", "status.podIP", "limits.cpu", "Exists", "DoNotSchedule")


def problems_of(job: Job) -> list[Problem]:
    """Everything that parsing or, for what is well formed, planning for a cluster refuses."""
    try:
        cluster_plan(parse_job(job), None, None)
    except InvalidSpec as refused:
        return list(refused.problems)
    return []


def path_of(field: str) -> Path:
    return [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", field)]


def value_at(job: Any, path: Path) -> Any:
    for part in path:
        if isinstance(job, list):
            job = job[part] if isinstance(part, int) and part < len(job) else None
        else:
            job = job.get(part) if isinstance(job, dict) else None
    return job


def changed(job: Job, path: Path, value: Any) -> Job:
    """A copy with the value at the path; `...` removes what is there. Objects on the way are made."""
    result = copy.deepcopy(job)
    target: Any = result
    for part, following in pairwise(path):
        inner = target[part] if isinstance(target, list) else target.get(part)
        if not isinstance(inner, dict | list):
            inner = target[part] = [{}] if isinstance(following, int) else {}
        target = inner
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return result


def followed(job: Job, problem: Problem) -> list[Job]:
    """The jobs that the remedy leads to, one for each way that it offers; none for words that nobody can follow by themselves."""
    path, text = path_of(problem.field), problem.remedy
    for words, examples in EXAMPLES.items():
        if text.startswith(words):
            return [changed(job, path, example) for example in examples]
    return [found for pattern, follow in _FOLLOWED for match in re.finditer(pattern, text) for found in follow(job, path, problem, match)]


def _values(text: str) -> list[Any]:
    plain = text.replace(" for a path", "").replace(" for the Hub", "")
    return [yaml_value(part.strip(), "remedy") for part in re.split(r", or | or ", plain)]


def _set(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield from (changed(job, path, value) for value in _values(match[1]))


def _as_text(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield changed(job, path, match[1])


def _choices(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield from (changed(job, path, choice) for choice in re.findall(r"'([^']*)'", problem.message.partition(" is not one of ")[2]))


def _removed(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield changed(job, path, ...)


def _sibling_removed(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    for parent in (path, path[:-1], path[:-2]):
        found = value_at(job, parent)
        if isinstance(found, dict) and match[1] in found:
            yield changed(job, [*parent, match[1]], ...)
            return


def _meant(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    word = match[1]
    if problem.message != "there is no such field":
        yield changed(job, path, word)
        return
    goal = path_of(word) if word.startswith("spec.") else [*path[:-1], word]
    rest = changed(job, path, ...)
    yield rest if "[]" in word or value_at(rest, goal) is not None else changed(rest, goal, value_at(job, path))


def _bound(shift: float) -> Callable[[Job, Path, Problem, re.Match[str]], Iterator[Job]]:
    def follow(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
        bound = yaml_value(match[1], "remedy")
        if isinstance(bound, int | float):  # and no quantity of a resource
            yield changed(job, path, bound + shift if shift else bound)

    return follow


def _elsewhere(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    """`dataset.evaluation.fraction: 0.1`, `device: cpu and workersPerNode: 2`."""
    result = job
    for name, value in re.findall(r"([\w.]+): ([^,;\s]+)", match[0]):
        goal = ["spec", *path_of(name)] if "." in name or name in ("suspend",) else [*_section(path, name), name]
        result = changed(result, goal, yaml_value(value, "remedy"))
    yield result


def _section(path: Path, name: str) -> Path:
    """The innermost object above the path that has such a field."""
    for length in range(len(path), 0, -1):
        if at([*path[:length], name], FineTuneJob) is not None:
            return path[:length]
    return path[:-1]


def _one_kept(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    for name in re.findall(r"\w+", problem.message.partition(" exclude ")[0].replace(" and ", " ")):
        if isinstance(value_at(job, path), dict) and name in value_at(job, path):
            yield changed(job, [*path, name], ...)


def _added(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    found = at(path, FineTuneJob)
    assert found is not None
    if found.model is not None:
        yield changed(job, path, Generator(found.model).smallest())
    elif found.is_list:
        item = kind(found.item)
        yield changed(job, path, [Generator(item.model).smallest() if item.model else "a"])
    else:
        yield changed(
            job,
            path,
            next(value for value in ADDED if accepts(found.declared, value)),
        )


def _shorter(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    value, most = value_at(job, path), int(problem.message.rsplit(" ", 1)[-1])
    yield changed(job, path, dict(list(value.items())[:most]) if isinstance(value, dict) else value[:most])


def _listed(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield changed(job, path, [value_at(job, path)])


def _mapped(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    found = at(path, FineTuneJob)
    yield changed(job, path, Generator(found.model).smallest() if found is not None and found.model else {})


def _prefixed(job: Job, path: Path, problem: Problem, match: re.Match[str]) -> Iterator[Job]:
    yield from (changed(job, path, prefix + str(value_at(job, path)).strip()) for prefix in ("http://", "https://"))


_FOLLOWED = (
    (r"^remove it\b|\bor remove it\b|; remove it$|^give one, or remove the|^its keys are|^remove them\b", _removed),
    (r"^here it is spec\.", _removed),
    (r"(?:^|or |, )remove (?!it\b|the\b|them\b)(\w+)", _sibling_removed),
    (r"^put it in quotes: \"(.*)\"$", _as_text),
    (r"^remove the quotes: (.*)$", _set),
    (r"^(?:this field is in seconds: )?write (?!it as|s3://bucket/prefix;)(.+?)(?:, or raise .*|, without .*|; .*)?$", _set),
    (r"^did you mean ([\w.\[\]-]+)\?", _meant),
    (r"^use one of them$", _choices),
    (r"^use at least (\S+)$", _bound(0)),
    (r"^use at most ([^\s,;]+)", _bound(0)),
    (r"^use more than (\S+)$", _bound(0.5)),
    (r"^use less than (\S+)$", _bound(-0.5)),
    (r"^use ((?!at |more |less |one of |device|a |an |lower|letters|budget|dataset)[\w.]+(?: or [\w.]+)*)(?=$|, or)", _set),
    (r"(?:^|or )(?:set|use) (?!both|it\b)[\w.]+: [^,;\s]+(?: and [\w.]+: [^,;\s]+)*", _elsewhere),
    (r"^keep one$", _one_kept),
    (r"^add it: ", _added),
    (r"^shorten it$", _shorter),
    (r"^begin each item with", _listed),
    (r"^put its fields below it", _mapped),
    (r"^begin it with http", _prefixed),
)
