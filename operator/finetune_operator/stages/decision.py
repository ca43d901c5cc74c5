"""What a stage decides, and the actions that it may ask for. Values only."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune_api.conditions import ConditionType, condition, with_condition
from finetune_api.status import FineTuneJobStatus
from finetune_api.times import timestamp
from finetune_operator.observation import Observed

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Make an object; one of that name that is ours already is as good, once its top-level fields in `update` are as wanted.

    `if_current`: only when nobody changed the job since it was observed.
    """

    manifest: Json
    if_current: bool = False
    update: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete an object, and only the one with that uid; one that is gone is as good."""

    kind: Literal["Job", "RayJob", "FineTuneJob"]
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """Ask the API server whether it would take the objects, and make nothing.

    `alike`: a digest of them without what is this job's alone; what was taken for one is taken for all that are alike.
    """

    manifests: tuple[Json, ...]
    alike: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskToStop:
    """Ask the driver of a RayCluster, through the report, to commit a checkpoint and stop."""

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawStop:
    """Ask no longer."""


Action = Create | DryRun | Delete | AskToStop | WithdrawStop
Word = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDecision:
    """The status after a stage, and what has to be done. `done` lets the next stage begin.

    `stalled` and `failed` are reason and message of what only a person can mend; a failed job ends.
    """

    status: FineTuneJobStatus
    done: bool = False
    actions: tuple[Action, ...] = ()
    stalled: tuple[str, str] | None = None
    failed: tuple[str, str] | None = None
    requeue_after_seconds: float | None = None

    def then(self, next_stage: "StageDecision") -> "StageDecision":
        """The next stage's decision, with what this one does and waits for."""
        waits = sooner(self.requeue_after_seconds, next_stage.requeue_after_seconds)
        return replace(next_stage, actions=(*self.actions, *next_stage.actions), requeue_after_seconds=waits)

    def after(self, *actions: Action) -> "StageDecision":
        """The same with more actions, at the end."""
        return replace(self, actions=(*self.actions, *actions))


def set_condition(
    observed: Observed, status: FineTuneJobStatus, kind: ConditionType, word: Word, reason: str, message: str = ""
) -> FineTuneJobStatus:
    """The status with a condition set, as of now and of the observed generation."""
    new = condition(kind, word, reason, message, at=timestamp(observed.now), generation=observed.generation)
    return status.model_copy(update={"conditions": list(with_condition(status.conditions, new))})


def sooner(one: float | None, other: float | None) -> float | None:
    """The earlier of two waits; None is no wait."""
    return min((wait for wait in (one, other) if wait is not None), default=None)
