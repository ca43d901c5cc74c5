"""Events: what a run tells the world while it works, as values that cross processes as JSON.

Rank 0 of the worker and the stages around it record events; sinks (a terminal, `metrics.jsonl`, TensorBoard, a cluster's
report object) are where they go. This room doesn't know any sink but the fan-out, and it imports nothing heavy.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args, get_origin

from finetune_api.json_text import json_value

Stage: TypeAlias = Literal["preparation", "training", "export", "evaluation", "publication"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage began. `total` is how many `unit`s it has; None when nobody knows. The stage before it is over."""

    kind: ClassVar[str] = "StageStarted"
    stage: Stage
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAdvanced:
    """A stage has now done `done` units in all. Training advances by StepDone instead."""

    kind: ClassVar[str] = "StageAdvanced"
    stage: Stage
    done: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a user should know: a fallback taken, rows dropped. Never silent, never fatal."""

    kind: ClassVar[str] = "Notice"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """Optimizer steps up to `step`, which counts from 1: `steps` of them since the event before, of which each attempt's first has none.

    `loss`, `learning_rate` and `grad_norm` are those of this step, per supervised token; tokens and `seconds` are sums over the `steps`,
    and `tokens_per_second` is their quotient, over all workers. `wall_seconds` is the time since the event before, also that of
    evaluations and checkpoints; `wall_tokens_per_second` counts it, over the whole attempt so far. `epoch`: a fraction of passes.
    `memory_bytes`: the peak of the fullest worker. `footprint_bytes`: what a CPU worker's process held before the model; 0 on GPUs, and
    where it isn't known. `mfu`: at `tokens_per_second`; None where no peak is known. `spread`: how many times the median rank's time the
    slowest one takes for the same work of its own; None of one rank. `slowest`: that rank and its host.
    """

    kind: ClassVar[str] = "StepDone"
    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    supervised_tokens: int
    tokens: int
    tokens_per_second: float
    memory_bytes: int
    seconds: float
    footprint_bytes: int = 0
    steps: int = 1
    wall_seconds: float = 0.0
    wall_tokens_per_second: float = 0.0
    mfu: float | None = None
    spread: float | None = None
    slowest: str = ""

    @property
    def step_seconds(self) -> float:
        """Time of one step, on average."""
        return self.seconds / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDone:
    """Loss per supervised token of the held-out dialogues after `step` steps; `note` says why perplexity is None.

    `seconds`: the time that training waited for it.
    """

    kind: ClassVar[str] = "EvaluationDone"
    step: int
    epoch: float
    loss: float
    perplexity: float | None
    note: str = ""
    seconds: float = 0.0


def evaluation_done(*, step: int, epoch: float, loss: float, seconds: float = 0.0) -> EvaluationDone:
    """The event for a measured loss, with its perplexity; one that no float can hold is None, with a note.

    >>> evaluation_done(step=0, epoch=0.0, loss=0.0).perplexity
    1.0
    >>> evaluation_done(step=0, epoch=0.0, loss=1000.0).note
    'perplexity exp(1000) is too large for a number'
    """
    if not math.isfinite(loss):
        perplexity, note = None, "the loss is not finite, so it has no perplexity"
    else:
        try:
            perplexity, note = math.exp(loss), ""
        except OverflowError:
            perplexity, note = None, f"perplexity exp({loss:g}) is too large for a number"
    return EvaluationDone(step=step, epoch=epoch, loss=loss, perplexity=perplexity, note=note, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCommitted:
    """A checkpoint's manifest is in storage under `key`. Training waited `seconds` for it; it was there after `write_seconds`."""

    kind: ClassVar[str] = "CheckpointCommitted"
    step: int
    seconds: float
    bytes: int
    key: str
    write_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesChecked:
    """Before the attempt began, devices and network were tried for `seconds`. `slow_hosts`: to be avoided; notices say why."""

    kind: ClassVar[str] = "NodesChecked"
    seconds: float
    slow_hosts: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Attempt `attempt` goes on after `step` steps: whatever was recorded of later steps will be done again."""

    kind: ClassVar[str] = "Resumed"
    step: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarting:
    """Workers ended without a word, and the driver starts them again in the same attempt. `hosts`: of those that are gone.

    `reason` and `message` are those of the error that would have ended it.
    """

    kind: ClassVar[str] = "Restarting"
    reason: str
    message: str
    hosts: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """They run again, `seconds` after their end was noticed. `count`: how often in this attempt; `charged` of these count as failures."""

    kind: ClassVar[str] = "Restarted"
    count: int
    charged: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The run was asked to stop and will commit a checkpoint first."""

    kind: ClassVar[str] = "Stopping"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedEarly:
    """Training is done after `step` of `total_steps` steps, by evaluation.earlyStopping; `loss` is that of the last evaluation.

    `message` says why, in a sentence. `best_loss` is the lowest of all evaluations; `best_step` 0 is the base model.
    """

    kind: ClassVar[str] = "StoppedEarly"
    step: int
    total_steps: int
    loss: float
    best_step: int
    best_loss: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The model is at `where` (a repository or a directory) as `revision` (a commit, or the digest of its files)."""

    kind: ClassVar[str] = "Published"
    where: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run is done: the exported model's folder, the report, and how it went. Losses are None when not measured."""

    kind: ClassVar[str] = "Finished"
    model: str
    report: str
    step: int
    loss: float | None
    evaluation_loss: float | None
    seconds: float


Event: TypeAlias = (
    StageStarted
    | StageAdvanced
    | Notice
    | StepDone
    | EvaluationDone
    | CheckpointCommitted
    | NodesChecked
    | Resumed
    | Restarting
    | Restarted
    | Stopping
    | StoppedEarly
    | Published
    | Finished
)

_TYPES: dict[str, type[Event]] = {
    event.kind: event
    for event in (
        StageStarted, StageAdvanced, Notice, StepDone, EvaluationDone, CheckpointCommitted, NodesChecked, Resumed, Restarting, Restarted,
        Stopping, StoppedEarly, Published, Finished,
    )
}  # fmt: skip


def to_object(event: Event) -> dict[str, Any]:
    """The event as a JSON object with its `kind` first. JSON has no NaN or infinity: such a number is null.

    >>> to_object(Notice(message="3 rows dropped"))
    {'kind': 'Notice', 'message': '3 rows dropped'}
    """
    return {"kind": event.kind} | {f.name: _finite(getattr(event, f.name)) for f in fields(event)}


def from_object(data: Mapping[str, Any]) -> Event:
    """The event that `to_object` wrote. Unknown fields are ignored; an unknown kind or a missing field is a ValueError."""
    event_type = _TYPES.get(data["kind"]) if isinstance(data.get("kind"), str) else None
    if event_type is None:
        raise ValueError(f"unknown event kind {data.get('kind')!r}; known: {', '.join(_TYPES)}")
    # A null where a number must be is a number that JSON can't hold.
    values: dict[str, Any] = {
        f.name: math.nan if data[f.name] is None and f.type is float else data[f.name] for f in fields(event_type) if f.name in data
    }
    for f in fields(event_type):
        if f.name in values and not _is_of(f.type, values[f.name]):
            raise ValueError(f"{event_type.kind}: {f.name} can't be {values[f.name]!r}")
    try:
        return event_type(**values)
    except TypeError as error:
        raise ValueError(f"{event_type.kind}: {error}") from error


def _is_of(wanted: Any, value: Any) -> bool:
    """Whether a value of JSON fits a field of this type; words of a Literal are any text.

    >>> _is_of(float, 1), _is_of(int, 1.5), _is_of(float | None, None), _is_of(int, True)
    (True, False, True, False)
    """
    if isinstance(wanted, UnionType):
        return any(_is_of(one, value) for one in get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted in (int, str, NoneType):
        return type(value) is wanted
    return isinstance(value, list | tuple) if get_origin(wanted) in (tuple, Sequence) else isinstance(value, str)


def to_json(event: Event) -> str:
    """One line of JSON, without its newline."""
    return json.dumps(to_object(event), ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Event:
    """The event of one line; ValueError when it isn't one."""
    data = json_value(text)
    if not isinstance(data, dict):
        raise ValueError(f"an event is a JSON object, not {text[:40]!r}")
    return from_object(data)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Sink(Protocol):
    """Where events go. `record` must not block for long: training waits for it."""

    def record(self, event: Event) -> None:
        """Take one event, in the order in which they happened."""

    def close(self) -> None:
        """Flush; no event follows. May be called twice."""


@dataclass(slots=True)
class FanOut:
    """Sends each event to every sink.

    A sink that fails on I/O is left out from then on, and the others are told: progress is worth less than the run.
    """

    sinks: Sequence[Sink]
    _failed: set[int] = field(default_factory=set)  # by identity: two sinks may be equal as values

    def record(self, event: Event) -> None:
        """Pass it on to every sink that still works."""
        for sink in self.sinks:
            if id(sink) in self._failed:
                continue
            try:
                sink.record(event)
            except OSError as error:
                self._failed.add(id(sink))
                self.record(Notice(message=f"{type(sink).__name__} stopped recording: {error}"))

    def close(self) -> None:
        """Close them all."""
        for sink in self.sinks:
            if id(sink) not in self._failed:
                sink.close()
