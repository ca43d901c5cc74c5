"""FineTuneJob.status as a whole, and how it is read."""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from finetune_api.conditions import Condition, StatusModel, Time
from finetune_api.finetunejob import Natural
from finetune_api.status.attempts import AttemptStatus, UsageStatus
from finetune_api.status.evaluation import EvaluationStatus, PublicationStatus
from finetune_api.status.plan import AdjustedStatus, PlanStatus
from finetune_api.status.preparation import DefaultsStatus, PreparationStatus, RunStatus
from finetune_api.status.progress import CheckpointsStatus, ProgressStatus
from finetune_api.status.types import BY_TYPE, LONGEST_LIST, Word


class FineTuneJobStatus(StatusModel):
    """What is observed."""

    # kstatus calls an object without a status Current; 0, which no generation is, makes a new job InProgress.
    observed_generation: Natural = Field(default=0, description="Generation of the spec that was looked at.")
    observed_retry: Natural = Field(default=0, description="spec.retry that was acted on; a higher one reopens a failed job.")
    active_time: Time | None = Field(
        default=None, description="When the first preparation was made: budget.activeDeadlineSeconds counts from here."
    )
    start_time: Time | None = Field(default=None, description="When the first attempt began; from then on the run is fixed.")
    completion_time: Time | None = Field(default=None, description="When the job succeeded or failed.")
    conditions: Annotated[list[Condition], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="Observations.", json_schema_extra=BY_TYPE
    )
    stage: Word | None = Field(default=None, description="A word for display, derived from the conditions.")
    defaults: DefaultsStatus | None = Field(default=None, description="What it was given where its spec says nothing; absent is nothing.")
    plan: PlanStatus | None = Field(default=None, description="The plan.")
    adjusted: AdjustedStatus | None = Field(
        default=None, description="What attempts run with in place of what the spec says; absent: nothing."
    )
    preparation: PreparationStatus | None = Field(default=None, description="The newest preparation.")
    run: RunStatus | None = Field(default=None, description="The frozen run.")
    progress: ProgressStatus | None = Field(default=None, description="The newest report.")
    checkpoints: CheckpointsStatus | None = Field(default=None, description="Checkpoints.")
    attempt: Natural = Field(default=0, description="Attempts begun.")
    failed_starts: Natural = Field(default=0, description="Attempts in a row whose pods never all ran, or that Ray never got.")
    attempts_without_progress: Natural = Field(default=0, description="Attempts in a row that others ended without a new checkpoint.")
    attempts: Annotated[list[AttemptStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest attempts, oldest first."
    )
    usage: UsageStatus | None = Field(default=None, description="What was used.")
    evaluation: EvaluationStatus | None = Field(default=None, description="The newest evaluation.")
    publication: PublicationStatus | None = Field(default=None, description="Where the model is.")
    dashboard: str | None = Field(default=None, max_length=2048, description="URL of the Ray dashboard.")

    def to_json(self) -> dict[str, Any]:
        """The status as the API server keeps it: camelCase, what is absent left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class UnreadableStatus(Exception):
    """A status that these models can't read: attempts and usage are the record, so nothing may be decided without them."""


def parse_status(data: object) -> FineTuneJobStatus:
    """The status in an object of the API server; one that was never written is the default one. Raises UnreadableStatus."""
    try:
        return FineTuneJobStatus.model_validate(data or {}, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UnreadableStatus(f"status.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
