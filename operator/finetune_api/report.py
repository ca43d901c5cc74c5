"""FineTuneReport: the one object through which a running attempt and the operator talk.

`spec` is what the operator asks of the driver, `status` what the driver reports. The driver's token may write this object's
status and nothing else, so the status is untrusted input, and every part of it has a largest size. Both sides leave keys aside
that they don't know: operator and image may be of different versions.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from finetune_api.conditions import StatusModel, Time
from finetune_api.finetunejob import Natural, Positive
from finetune_api.status import LastLines

REPORT_KIND: Final = "FineTuneReport"
REPORTS: Final = "finetunereports"

NotNegative = Annotated[float, Field(ge=0.0)]
ClusterName = Annotated[str, Field(min_length=1, max_length=253)]
HostName = Annotated[str, Field(min_length=1, max_length=253)]
SLOWEST_LENGTH: Final = 280
MOST_SLOW_HOSTS: Final = 8
LONGEST_RESTART: Final = 512


class ReportOutcome(StrEnum):
    """Where the reporting attempt is."""

    RUNNING = "Running"
    FINISHED = "Finished"
    STOPPED = "Stopped"  # on request, after a checkpoint was committed
    FAILED = "Failed"


class StopRequest(StatusModel):
    """Commit a checkpoint and stop."""

    cluster: ClusterName | None = Field(default=None, description="RayCluster whose driver is meant; absent means any.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="Why, in one CamelCase word.")


class FineTuneReportSpec(StatusModel):
    """What the operator asks of the driver."""

    stop: StopRequest | None = Field(default=None, description="Commit a checkpoint and stop.")
    service_account: Annotated[str, Field(max_length=253)] | None = Field(default=None, description="Whose token may write the status.")

    def asks_to_stop(self, cluster: str) -> bool:
        """Whether the driver of that RayCluster should stop."""
        return self.stop is not None and self.stop.cluster in (None, cluster)


class ReportedEvaluation(StatusModel):
    """The newest evaluation."""

    step: Natural = Field(description="Step of the evaluated state.")
    loss: float = Field(description="Mean loss of held-out tokens.")


class ReportedCheckpoint(StatusModel):
    """The newest committed checkpoint."""

    step: Natural = Field(description="Optimizer steps in it.")
    attempt: Positive = Field(description="Number of the claim on the storage under which it was written.")
    bytes: Natural = Field(default=0, description="Size.")
    committed_at: Time | None = Field(default=None, description="When its manifest was written.")
    seconds: NotNegative | None = Field(default=None, description="How long it took, from the state to the manifest.")


def _known_or_none(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    """A word of a newer image says nothing; the rest of its report does."""
    try:
        return known(value)
    except ValidationError:
        if isinstance(value, str):
            return None
        raise


class ReportedRestarts(StatusModel):
    """How often workers of this attempt started again in place, in the same Ray, after they had ended without a word."""

    count: Natural = Field(default=0, description="How often they run again.")
    charged: Natural = Field(default=0, description="Those that count as failures: a process ended, and its node stayed.")
    since: Time | None = Field(default=None, description="While they are to start again: since when.")
    reason: Annotated[str, Field(max_length=64)] = Field(description="Of the newest end, in one CamelCase word.")
    message: Annotated[str, Field(max_length=LONGEST_RESTART)] = Field(description="What is known of it.")
    hosts: Annotated[list[HostName], Field(max_length=MOST_SLOW_HOSTS)] | None = Field(
        default=None, description="Hosts, which are pods, of the workers that were gone."
    )


class FineTuneReportStatus(StatusModel):
    """What the driver reports. Absent is unknown."""

    cluster: ClusterName | None = Field(default=None, description="RayCluster of the reporting attempt; reports of others are ignored.")
    outcome: Annotated[ReportOutcome | None, Field(strict=False), WrapValidator(_known_or_none)] = Field(
        default=None, description="Where the attempt is."
    )
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)] | None = Field(
        default=None, description="Why it ended so."
    )
    message: Annotated[str, Field(max_length=1024)] | None = Field(default=None, description="What a person should know.")
    permanent: bool = Field(default=False, description="Whether the same input fails again until it is changed.")
    last_lines: LastLines | None = Field(
        default=None, description="Of a failure: the last lines of the traceback that explains it, without secrets."
    )
    first_step: Natural | None = Field(default=None, description="Step of the checkpoint that the attempt went on from; absent: none.")
    step: Natural | None = Field(default=None, description="Optimizer steps done.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    loss: float | None = Field(default=None, description="Training loss of the newest step.")
    tokens_per_second: NotNegative | None = Field(default=None, description="Tokens per second over all workers, in steps.")
    wall_tokens_per_second: NotNegative | None = Field(
        default=None, description="The same with evaluations, checkpoints and waits, since the attempt's first step began."
    )
    spread: NotNegative | None = Field(
        default=None, description="How often the median worker's own computing goes into that of the slowest one."
    )
    slowest: Annotated[str, Field(max_length=SLOWEST_LENGTH)] | None = Field(default=None, description="The slowest: its rank and host.")
    slow_hosts: Annotated[list[HostName], Field(max_length=MOST_SLOW_HOSTS)] | None = Field(
        default=None, description="Hosts, which are pods, whose devices or network the check at the attempt's start found slow or faulty."
    )
    eta_seconds: NotNegative | None = Field(default=None, description="Time left.")
    evaluation: ReportedEvaluation | None = Field(default=None, description="The newest evaluation.")
    checkpoint: ReportedCheckpoint | None = Field(default=None, description="The newest committed checkpoint.")
    goodput_seconds: NotNegative | None = Field(
        default=None, description="Time of this attempt that went into steps that its newest checkpoint holds."
    )
    restarts: ReportedRestarts | None = Field(default=None, description="Starts in place of this attempt's workers; absent: none.")
    reported_at: Time | None = Field(default=None, description="When it was reported.")

    @property
    def is_over(self) -> bool:
        """Whether it tells how the attempt ended."""
        return self.outcome not in (None, ReportOutcome.RUNNING)

    def to_patch(self) -> dict[str, Any]:
        """The body of a merge patch on the status. What is absent is null in it, so that nothing of a former attempt stays."""
        return {"status": self.model_dump(mode="json", by_alias=True)}


class FineTuneReport(StatusModel):
    """What a running attempt and the operator tell each other. Made and read by machines."""

    spec: FineTuneReportSpec = Field(default=FineTuneReportSpec(), description="What the operator asks of the driver.")
    status: FineTuneReportStatus = Field(default=FineTuneReportStatus(), description="What the driver reports.")


def parse_report(data: object) -> FineTuneReport | None:
    """The report in an object of the API server; None when it has another form, which its schema should have refused."""
    try:
        return FineTuneReport.model_validate(data, by_alias=True, by_name=False)
    except ValidationError:
        return None
