"""Conditions: what the operator observes of a job, in the form of Kubernetes' metav1.Condition.

The operator writes them; users, `kubectl wait` and kstatus (Flux) read them. Here are their names and the pure
functions that change a list of them; when one is true is decided by the operator's stages.
"""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PlainSerializer, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from finetune_api.bounded_text import shortened
from finetune_api.finetunejob import Model, Natural
from finetune_api.reasons import Reason

TIME_FORMAT: dict[str, Any] = {"format": "date-time"}
# RFC 3339, as in 2026-11-23T10:00:00Z.
Time = Annotated[str, Field(max_length=64, json_schema_extra=TIME_FORMAT)]


# metav1.Condition allows 32768; nobody reads that, and a list of jobs carries all of them.
LONGEST_CONDITION_MESSAGE = 4096


class ConditionType(StrEnum):
    """Every condition of a FineTuneJob. A stage that wasn't asked for is True with reason NotRequested."""

    PLANNED = "Planned"
    PREPARED = "Prepared"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    PUBLISHED = "Published"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


# The pipeline's stages in order, each with the word that is displayed while it runs.
STAGES = (
    (ConditionType.PLANNED, "Planning"),
    (ConditionType.PREPARED, "Preparing"),
    (ConditionType.TRAINED, "Training"),
    (ConditionType.EVALUATED, "Evaluating"),
    (ConditionType.PUBLISHED, "Publishing"),
)


class StatusModel(Model):
    """An object of the status: keys of a newer operator are left aside."""

    model_config = ConfigDict(extra="ignore")


class StatusItem(StatusModel):
    """An item of a list of the status. Lists are written whole, so keys of a newer operator are kept, and written again."""

    model_config = ConfigDict(extra="allow")


def _known_or_kept(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    try:
        return known(value)
    except ValidationError:
        if isinstance(value, str):
            return value
        raise


# Of a field with few values: a word that only a newer operator knows is kept as it is, and equals none of ours. An operator that was rolled
# back reads what the newer one wrote; the CRD, which is never rolled back, knows the word.
NEWER_WORDS: Final = (WrapValidator(_known_or_kept), PlainSerializer(str, return_type=str))


class Condition(StatusItem):
    """One observation."""

    type: Annotated[ConditionType, Field(strict=False), *NEWER_WORDS] = Field(description="What is observed.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Natural = Field(default=0, description="Generation of the spec that was looked at.")
    last_transition_time: Time = Field(description="When the status last changed.")
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024, description="One CamelCase word.")
    message: str = Field(
        default="", max_length=LONGEST_CONDITION_MESSAGE, description="What a person should know: what, where, the remedy."
    )


def condition(
    kind: ConditionType, status: Literal["True", "False", "Unknown"], reason: str, message: str = "", *, at: str, generation: int
) -> Condition:
    """A condition observed at that time of that generation; its message is cut to fit."""
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=at,
        reason=reason,
        message=shortened(message, LONGEST_CONDITION_MESSAGE),
    )


def with_condition(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """The conditions with one set, in the order of ConditionType, those of a newer operator last.

    Its transition time is the old one while its status stays.
    """
    old = find(conditions, new.type)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    order = [kind.value for kind in ConditionType]
    others = [c for c in conditions if c.type != new.type]
    return tuple(sorted([*others, new], key=lambda c: order.index(c.type) if c.type in order else len(order)))


def find(conditions: Sequence[Condition], wanted: ConditionType) -> Condition | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in conditions if condition.type == wanted), None)


def is_true(conditions: Sequence[Condition], wanted: ConditionType) -> bool:
    """Whether the condition is there and True."""
    found = find(conditions, wanted)
    return found is not None and found.status == "True"


def with_health(conditions: Sequence[Condition], stalled: tuple[str, str] | None, *, at: str, generation: int) -> tuple[Condition, ...]:
    """The conditions with kstatus's two, Reconciling and Stalled, which are never both True.

    `stalled` is reason and message of what only a person can mend; a failed job is stalled with its failure's. Reconciling is
    True until the job has succeeded, is stalled, or rests because it is suspended. So kstatus (Flux, `kubectl wait`
    on Reconciling=False) calls a job InProgress, Failed or Current rightly at any time; before the first status is
    written its observedGeneration 0, the schema's default, makes it InProgress.
    """
    failed = find(conditions, ConditionType.FAILED)
    if failed is not None and failed.status == "True":
        stalled = (failed.reason, failed.message)
    ended = next((kind for kind in (ConditionType.SUCCEEDED, ConditionType.SUSPENDED) if is_true(conditions, kind)), None)
    rest = Reason.STALLED if stalled else Reason.SUCCEEDED if ended is ConditionType.SUCCEEDED else Reason.SUSPENDED if ended else None
    reconciling = condition(
        ConditionType.RECONCILING, "False" if rest else "True", rest or Reason.IN_PROGRESS, at=at, generation=generation
    )
    reason, message = stalled or (Reason.NOT_STALLED, "")
    waiting = condition(ConditionType.STALLED, "True" if stalled else "False", reason, message, at=at, generation=generation)
    return with_condition(with_condition(conditions, reconciling), waiting)


def open_stage(conditions: Sequence[Condition], *, passed: Collection[ConditionType] = ()) -> tuple[ConditionType, str] | None:
    """The first stage that isn't done, with its word; None when all are. `passed`: stages that failed and hold nothing up."""
    return next(((kind, word) for kind, word in STAGES if kind not in passed and not is_true(conditions, kind)), None)


def stage(conditions: Sequence[Condition], *, passed: Collection[ConditionType] = ()) -> str:
    """One word for display, derived from the conditions; nothing decides by it.

    >>> stage(())
    'Planning'
    """
    for ended in (ConditionType.SUCCEEDED, ConditionType.FAILED, ConditionType.SUSPENDED, ConditionType.STALLED):
        if is_true(conditions, ended):
            return ended.value
    found = open_stage(conditions, passed=passed)
    return found[1] if found is not None else "Finishing"
