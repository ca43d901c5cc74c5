"""FineTuneJob.status: what the operator records. Lists are bounded, counters only grow; the CRD's schema is generated from it."""

from typing import Annotated, Any

from pydantic import Field

from finetune_api.conditions import TIME_FORMAT, Condition, StatusModel
from finetune_api.finetunejob import Natural, Positive

# Newest entries that are kept of lists that would grow for ever.
LONGEST_LIST = 20

BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class RunStatus(StatusModel):
    """The frozen run that every attempt executes."""

    identity: str = Field(description="Digest of model, data, template and training; storage belongs to it.")
    digest: str = Field(description="Digest of the frozen TrainingRun.")
    image: str | None = Field(default=None, description="Image of the trainer.")
    model_revision: str = Field(description="Commit of the base model.")
    data_fingerprint: str = Field(description="Fingerprint of the prepared data.")


class PlanStatus(StatusModel):
    """The plan's main numbers; absent ones are unknown."""

    world_size: Positive = Field(description="Workers in all.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    memory_bytes: Natural | None = Field(default=None, description="Peak memory of one worker, estimated.")
    gpu_hours: float | None = Field(default=None, description="GPU hours, estimated.")


class ProgressStatus(StatusModel):
    """The newest report of the running attempt."""

    step: Natural = Field(default=0, description="Optimizer steps done.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    loss: float | None = Field(default=None, description="Training loss of the newest step.")
    tokens_per_second: float | None = Field(default=None, description="Tokens per second over all workers.")
    eta: str | None = Field(default=None, max_length=32, description="Time left, as in 1h12m.")
    reported_at: str | None = Field(default=None, description="When it was reported.", json_schema_extra=TIME_FORMAT)


class CheckpointStatus(StatusModel):
    """A checkpoint whose manifest was verified."""

    step: Natural = Field(description="Optimizer steps in it.")
    attempt: Positive = Field(description="Attempt that wrote it.")
    bytes: Natural = Field(default=0, description="Size.")
    committed_at: str | None = Field(default=None, description="When its manifest was written.", json_schema_extra=TIME_FORMAT)


class CheckpointsStatus(StatusModel):
    """Checkpoints in storage."""

    latest: CheckpointStatus | None = Field(default=None, description="The newest.")
    ledger: Annotated[list[CheckpointStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest ones, oldest first."
    )


class AttemptStatus(StatusModel):
    """One attempt at training."""

    number: Positive = Field(description="From 1.")
    start_time: str | None = Field(default=None, description="When its RayJob was created.", json_schema_extra=TIME_FORMAT)
    completion_time: str | None = Field(default=None, description="When it ended.", json_schema_extra=TIME_FORMAT)
    outcome: str | None = Field(default=None, max_length=64, description="Absent while it runs.")
    reason: str | None = Field(default=None, max_length=64, description="Why it ended so.")
    message: str | None = Field(default=None, max_length=1024, description="What a person should know.")
    charged: bool = Field(default=False, description="Whether it counts against failurePolicy.maxFailures.")


class UsageStatus(StatusModel):
    """What was used over all attempts; only grows."""

    gpu_hours: float = Field(default=0.0, description="GPU hours that were held.")
    goodput: float | None = Field(default=None, description="Share of them that went into steps that count.")
    charged_failures: Natural = Field(default=0, description="Failures charged.")


class EvaluationStatus(StatusModel):
    """The newest evaluation."""

    step: Natural = Field(description="Step of the evaluated checkpoint.")
    loss: float = Field(description="Mean loss of held-out tokens.")
    perplexity: float | None = Field(default=None, description="exp(loss); absent where it is too large.")


class PublicationStatus(StatusModel):
    """Where the model is."""

    repository: str = Field(description="Repository or directory.")
    revision: str = Field(description="Commit, verified file by file.")


class FineTuneJobStatus(StatusModel):
    """What is observed."""

    observed_generation: Natural = Field(default=0, description="Generation of the spec that was looked at.")
    start_time: str | None = Field(
        default=None, description="When the first attempt began; from then on the run is fixed.", json_schema_extra=TIME_FORMAT
    )
    completion_time: str | None = Field(default=None, description="When the job succeeded or failed.", json_schema_extra=TIME_FORMAT)
    conditions: Annotated[list[Condition], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="Observations.", json_schema_extra=BY_TYPE
    )
    stage: str | None = Field(default=None, max_length=32, description="A word for display, derived from the conditions.")
    run: RunStatus | None = Field(default=None, description="The frozen run.")
    plan: PlanStatus | None = Field(default=None, description="The plan.")
    progress: ProgressStatus | None = Field(default=None, description="The newest report.")
    checkpoints: CheckpointsStatus | None = Field(default=None, description="Checkpoints.")
    attempt: Natural = Field(default=0, description="Attempts begun.")
    attempts: Annotated[list[AttemptStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest attempts, oldest first."
    )
    usage: UsageStatus | None = Field(default=None, description="What was used.")
    evaluation: EvaluationStatus | None = Field(default=None, description="The newest evaluation.")
    publication: PublicationStatus | None = Field(default=None, description="Where the model is.")
    dashboard: str | None = Field(default=None, max_length=2048, description="URL of the Ray dashboard.")
