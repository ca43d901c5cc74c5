"""What each field of a spec decides, and when it may change: one table, from which digests, the API server's rules and a page are made.

In: nothing. Out: `FIELDS`. A row holds for its field and for all below it that has no row of its own.

`python -m finetune_api.field_use` prints the table as Markdown, for docs/operator.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from finetune_api.finetunejob import FineTuneJobSpec

# More than the API has; what is asked for comes from users.
_MOST_PATHS: Final = 2048


class Change(StrEnum):
    """When a field may change after the first attempt began; before that everything may."""

    NEVER = "never"
    WHILE_STOPPED = "when suspended or failed"
    ALWAYS = "at any time"


@dataclass(frozen=True, slots=True)
class Use:
    """A row. `path` is that of YAML, `[]` after a list.

    `identity`: another value gives another result, and storage belongs to that. `preparation`, `evaluation`, `publication`: another value
    is another Job. `run`: attempts execute it; another value makes another run once nothing runs. `figures`: another value is another
    evaluation, of which nothing is known yet; one that is done isn't done again for anything else.
    """

    path: str
    identity: bool
    preparation: bool
    run: bool
    figures: bool
    evaluation: bool
    publication: bool
    change: Change

    def covers(self, path: str) -> bool:
        """Whether the field of that path is this one or below it."""
        return path == self.path or _below(path, self.path)


def _use(path: str, reads: str, change: Change = Change.ALWAYS) -> Use:
    """`reads`: i, p, r, f, e and P, for identity, preparation, run, figures, evaluation and publication, where they read it."""
    identity, preparation, run, figures, evaluation, publication = (letter in reads for letter in "iprfeP")
    return Use(path, identity, preparation, run, figures, evaluation, publication, change)


FIELDS: Final = (
    _use("model", "ipr", Change.NEVER),
    _use("model.tokenSecret", "pre"),
    _use("model.cache", "pre"),
    _use("model.shape", "pr", Change.NEVER),
    _use("dataset", "ipr", Change.NEVER),
    # An evaluation looks for its benchmarks in the data.
    _use("dataset.sources[].tokenSecret", "pre"),
    _use("dataset.sources[].credentialsSecret", "pre"),
    _use("dataset.processes", "pr", Change.NEVER),
    _use("template", "ipr", Change.NEVER),
    _use("training", "ipr", Change.NEVER),
    # They change memory and speed, and a run may go on with others: its folder or its storage, in another job.
    _use("training.sharding", "pr", Change.NEVER),
    _use("training.deepspeed", "pr", Change.NEVER),
    _use("training.microBatchSize", "pr", Change.NEVER),
    _use("training.activationCheckpointing", "pr", Change.NEVER),
    _use("training.recomputedLayers", "pr", Change.NEVER),
    _use("training.logEverySteps", "pr", Change.NEVER),
    _use("workers", "r", Change.WHILE_STOPPED),
    # How many there are is frozen for each attempt.
    _use("workers.minNodes", "", Change.WHILE_STOPPED),
    # CPU pods take them over.
    _use("workers.image", "preP", Change.WHILE_STOPPED),
    _use("workers.imagePullSecrets", "preP", Change.WHILE_STOPPED),
    _use("workers.serviceAccountName", "preP", Change.WHILE_STOPPED),
    _use("cpuPods", "preP"),
    _use("checkpoints", "preP"),
    _use("checkpoints.storage", "preP", Change.NEVER),
    _use("checkpoints.endpoint", "preP", Change.NEVER),
    _use("checkpoints.region", "preP", Change.NEVER),
    _use("checkpoints.every", "r"),
    _use("checkpoints.keep", "r"),
    _use("evaluation", "r"),
    # They decide which checkpoint is the last, and which the best.
    *(_use(f"evaluation.{name}", "rf") for name in ("everyEpochs", "everySteps", "earlyStopping")),
    # After training. What is published tells of it. Whether there are such tasks is looked at before anything is trained.
    _use("evaluation.tasks", "pfeP"),
    *(_use(f"evaluation.{name}", "feP") for name in ("numFewshot", "limit", "taskData", "judge", "samples")),
    # They change no figure, only whether and how fast it is had.
    *(_use(f"evaluation.{name}", "e") for name in ("batchSize", "judge.maxTokens", "pod")),
    _use("evaluation.judge.apiKeySecret", "pe"),
    # Sampled answers are drawn as it says.
    _use("generation", "rfP"),
    # Whether a repository may be written to is tried before anything is trained.
    _use("publish", "prP"),
    _use("publish.checkpoint", "prfeP"),
    # Written with the model.
    _use("publish.card", "rP"),
    # Whether a tracker can be used is tried before anything is trained.
    _use("reportTo", "pr"),
    _use("failurePolicy", ""),
    _use("budget", ""),
    _use("suspend", ""),
    # Raising it tries again what failed.
    _use("retry", "peP"),
    _use("ttlSecondsAfterFinished", ""),
)


@lru_cache(_MOST_PATHS)
def use_of(path: str) -> Use:
    """The row that holds for a field.

    >>> use_of("dataset.sources[].path").path, use_of("dataset.sources[].tokenSecret").change.value
    ('dataset', 'at any time')
    """
    return max((use for use in FIELDS if use.covers(path)), key=lambda use: len(use.path))


def selected(spec: FineTuneJobSpec, wanted: Callable[[Use], bool], *, defaults: bool = False) -> dict[str, Any]:
    """The spec as JSON, with the fields that are wanted alone; values that are defaults are left out unless `defaults`."""
    whole = spec.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
    return {name: part for name, value in whole.items() if (part := _selected(value, name, wanted)) is not _NOTHING}


_NOTHING: Final = object()


def _selected(value: Any, path: str, wanted: Callable[[Use], bool]) -> Any:
    """What of the value at that path is wanted."""
    if _is_divided(path) and isinstance(value, dict):
        parts = {name: part for name, inner in value.items() if (part := _selected(inner, f"{path}.{name}", wanted)) is not _NOTHING}
        return parts if parts or wanted(use_of(path)) else _NOTHING
    if not wanted(use_of(path)):
        return _NOTHING
    return [_selected(item, f"{path}[]", wanted) for item in value] if _is_divided(path) and isinstance(value, list) else value


@lru_cache(_MOST_PATHS)
def _is_divided(path: str) -> bool:
    """Whether a field below that one has a row of its own."""
    return any(_below(use.path, path) for use in FIELDS)


def _below(path: str, other: str) -> bool:
    return path.startswith((f"{other}.", f"{other}["))


def table() -> str:
    """The table as Markdown."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| `spec.` | result | preparation | run | figures | evaluation | publication | may change after the first attempt began |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for use in FIELDS:
        marks = ("x" if read else "" for read in (use.identity, use.preparation, use.run, use.figures, use.evaluation, use.publication))
        yield f"| `{use.path}` | {' | '.join(marks)} | {use.change} |"


if __name__ == "__main__":
    print(table())
