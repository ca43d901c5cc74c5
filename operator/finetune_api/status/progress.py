"""FineTuneJob.status.progress and .checkpoints: how far training is, and what of it is in storage."""

from typing import Annotated

from pydantic import Field

from finetune_api.conditions import StatusItem, StatusModel, Time
from finetune_api.finetunejob import Natural, Positive
from finetune_api.status.types import LONGEST_LIST, NotNegative, Text


class ProgressStatus(StatusModel):
    """The newest report of the running attempt."""

    step: Natural = Field(default=0, description="Optimizer steps done.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    loss: float | None = Field(default=None, description="Training loss of the newest step.")
    tokens_per_second: NotNegative | None = Field(default=None, description="Tokens per second over all workers, in steps.")
    wall_tokens_per_second: NotNegative | None = Field(
        default=None, description="The same with evaluations, checkpoints and waits, since the attempt's first step began."
    )
    mfu: NotNegative | None = Field(default=None, description="Share of the workers' peak that the model's own operations reach.")
    spread: NotNegative | None = Field(
        default=None, description="How often the median worker's own computing goes into that of the slowest one."
    )
    slowest: Text | None = Field(default=None, description="The slowest worker: its rank and pod.")
    eta: str | None = Field(default=None, max_length=32, description="Time left, as in 1h12m.")
    reported_at: Time | None = Field(default=None, description="When it was reported.")
    stale: bool = Field(default=False, description="Whether an attempt runs and nothing was reported for some time.")
    stale_time: Time | None = Field(default=None, description="Since when the operator has known that.")


class CheckpointStatus(StatusItem):
    """A checkpoint whose manifest was verified."""

    step: Natural = Field(description="Optimizer steps in it.")
    attempt: Positive = Field(description="Attempt that wrote it, counted by the storage.")
    bytes: Natural = Field(default=0, description="Size.")
    committed_at: Time | None = Field(default=None, description="When its manifest was written.")
    seconds: NotNegative | None = Field(default=None, description="How long it took; a pod that is stopped has `trainer.stopSeconds`.")


class CheckpointsStatus(StatusModel):
    """Checkpoints in storage."""

    latest: CheckpointStatus | None = Field(default=None, description="The newest.")
    ledger: Annotated[list[CheckpointStatus], Field(max_length=LONGEST_LIST)] = Field(
        default=[], description="The newest ones, oldest first."
    )


def eta_text(seconds: float) -> str:
    """Time left, for display.

    >>> [eta_text(seconds) for seconds in (42, 4320, 300000.5)]
    ['42s', '1h12m', '3d11h']
    """
    minutes = int(min(seconds, 1e12)) // 60
    if minutes == 0:
        return f"{int(seconds)}s"
    if minutes < 60:
        return f"{minutes}m"
    hours, days = minutes // 60, minutes // 1440
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24}h"
