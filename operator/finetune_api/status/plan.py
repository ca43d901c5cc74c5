"""FineTuneJob.status.plan and .adjusted: what was planned, and what attempts run with in place of what the spec says."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.bounded_text import shortened
from finetune_api.conditions import NEWER_WORDS, StatusModel, Time
from finetune_api.duration import flops_at_full_use, model_flops_per_token
from finetune_api.finetunejob import LARGEST_INTEGER, FineTuneJobSpec, ModelShape, Natural, Positive
from finetune_api.price import NO_PRICES, Prices, cost_of, price_of
from finetune_api.status.types import LONGEST_LIST, LONGEST_MESSAGE, NotNegative, Text, newest
from finetune_api.training_run import DataShape, Plan


class PlanStatus(StatusModel):
    """The plan's main numbers; absent ones are unknown."""

    final: bool = Field(default=False, description="Whether it follows from prepared data; before that parts of it are unknown.")
    device: Annotated[Literal["cpu", "gpu"], *NEWER_WORDS] | None = Field(default=None, description="Where workers compute.")
    precision: Annotated[Literal["bf16", "fp16", "fp32"], *NEWER_WORDS] | None = Field(
        default=None, description="Arithmetic of forward and backward."
    )
    world_size: Positive = Field(description="Workers in all.")
    micro_batch_size: Positive | None = Field(default=None, description="Rows of a worker's micro-step.")
    global_batch_size: Positive | None = Field(default=None, description="Rows of a step, of all workers and micro-steps.")
    total_steps: Positive | None = Field(default=None, description="Optimizer steps in all.")
    memory_bytes: Natural | None = Field(default=None, description="Peak memory of one worker, estimated.")
    memory_capacity_bytes: Natural | None = Field(default=None, description="What one worker has.")
    checkpoint_bytes: Natural | None = Field(default=None, description="Size of one checkpoint.")
    seconds: NotNegative | None = Field(default=None, description="Time of all steps and evaluations, estimated.")
    gpu_hours: NotNegative | None = Field(default=None, description="GPU hours from the start of workers to the end, estimated.")
    best_gpu_hours: NotNegative | None = Field(default=None, description="The same at best: a tuned stack and a fast network.")
    cost: NotNegative | None = Field(default=None, description="US dollars for gpuHours; absent where the chart's `prices` has none.")
    flops_per_token: NotNegative | None = Field(
        default=None, description="Operations that the model asks for per token, without recomputation; MFU counts them."
    )
    peak_flops: NotNegative | None = Field(default=None, description="Operations a second of all workers at most.")
    unknown: Annotated[list[Text], Field(max_length=LONGEST_LIST)] = Field(default=[], description="What is unknown, and why.")


class AdjustedStatus(StatusModel):
    """What attempts run with in place of what the spec says. The rows of each step are the same, in the same order."""

    micro_batch_size: Positive | None = Field(
        default=None, description="Rows of a worker's micro-step, since an attempt ran out of memory; for all that follow."
    )
    nodes: Positive | None = Field(
        default=None, description="Worker pods, while not all of workers.nodes are to be had; at least workers.minNodes."
    )
    resized_time: Time | None = Field(default=None, description="Since when it is these, or when all of workers.nodes were last tried.")
    failed_growths: Natural = Field(default=0, description="How often in a row all of workers.nodes were tried since, in vain.")
    growing: bool = Field(default=False, description="Whether the next attempt, or the one that starts, tries all of workers.nodes.")
    message: Text = Field(default="", description="Why.")


def plan_status(
    plan: Plan,
    spec: FineTuneJobSpec,
    shape: ModelShape | None = None,
    data: DataShape | None = None,
    *,
    final: bool,
    prices: Prices = NO_PRICES,
) -> PlanStatus:
    """The plan's main numbers, of that spec and those shapes."""
    shape = shape or spec.model.shape
    return PlanStatus(
        final=final,
        device=plan.device,
        precision=plan.precision,
        world_size=min(plan.world_size, LARGEST_INTEGER),
        micro_batch_size=_within_64_bits(plan.micro_batch_size),
        global_batch_size=_within_64_bits(plan.global_batch_size),
        total_steps=_within_64_bits(plan.total_steps),
        memory_bytes=_within_64_bits(plan.memory.total_bytes if plan.memory else None),
        memory_capacity_bytes=_within_64_bits(plan.memory.capacity_bytes if plan.memory else None),
        checkpoint_bytes=_within_64_bits(plan.checkpoint_bytes),
        seconds=plan.seconds,
        gpu_hours=plan.gpu_hours,
        best_gpu_hours=plan.best_gpu_hours,
        cost=cost_of(plan, price_of(plan, prices)),
        flops_per_token=model_flops_per_token(spec, shape, data) if shape else None,
        peak_flops=flops_at_full_use(spec, plan),
        unknown=newest([shortened(f"{unknown.name}: {unknown.why}", LONGEST_MESSAGE) for unknown in plan.unknown]),
    )


def _within_64_bits(number: int | None) -> int | None:
    return None if number is None else min(number, LARGEST_INTEGER)
