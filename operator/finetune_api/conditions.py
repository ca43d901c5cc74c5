"""Conditions: what the operator observes of a job, in the form of Kubernetes' metav1.Condition.

The operator writes them; users, `kubectl wait` and kstatus (Argo CD, Flux) read them. Here are their names and the pure
functions that change a list of them; when one is true is decided by the operator's stages.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field

from finetune_api.finetunejob import Model, Natural

TIME_FORMAT: dict[str, Any] = {"format": "date-time"}


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


class Condition(StatusModel):
    """One observation."""

    type: ConditionType = Field(strict=False, description="What is observed.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Natural = Field(default=0, description="Generation of the spec that was looked at.")
    last_transition_time: str = Field(description="When the status last changed.", json_schema_extra=TIME_FORMAT)
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024, description="One CamelCase word.")
    message: str = Field(default="", max_length=32768, description="What a person should know: what, where, the remedy.")


def with_condition(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """The conditions with one set, in the order of ConditionType; its transition time is the old one while its status stays."""
    old = find(conditions, new.type)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    order = list(ConditionType)
    return tuple(sorted([*(c for c in conditions if c.type != new.type), new], key=lambda c: order.index(c.type)))


def find(conditions: Sequence[Condition], wanted: ConditionType) -> Condition | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in conditions if condition.type == wanted), None)


def is_true(conditions: Sequence[Condition], wanted: ConditionType) -> bool:
    """Whether the condition is there and True."""
    found = find(conditions, wanted)
    return found is not None and found.status == "True"


def stage(conditions: Sequence[Condition]) -> str:
    """One word for display, derived from the conditions; nothing decides by it.

    >>> stage(())
    'Planning'
    """
    for ended in (ConditionType.SUCCEEDED, ConditionType.FAILED, ConditionType.SUSPENDED):
        if is_true(conditions, ended):
            return ended.value
    return next((word for kind, word in STAGES if not is_true(conditions, kind)), "Finishing")
