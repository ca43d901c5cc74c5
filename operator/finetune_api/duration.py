"""How long a run is in steps, tokens and operations, and what share of the peak these are.

In: the spec, the shapes, the GPU model. Out: numbers, or None where something that they depend on isn't known. What takes how many
seconds is `step_time`'s and `run_time`'s business.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from finetune_api.accelerators import Accelerator, accelerator
from finetune_api.checks import device
from finetune_api.finetunejob import Evaluation, FineTuneJobSpec, ModelShape
from finetune_api.training_run import DataShape, Plan, TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How long a run is; None is unknown."""

    rows_per_epoch: int | None
    steps_per_epoch: int | None
    epochs: int | None
    total: int | None
    warmup: int | None


def run_steps(spec: FineTuneJobSpec, data: DataShape | None, batch_size: int) -> Steps:
    """Steps of a run with that many rows in each. The last step of an epoch may be short; none is dropped."""
    rows = data.train.rows if data else None
    per_epoch = max(1, ceil(rows / batch_size)) if rows is not None else None
    epochs, total = spec.training.effective_epochs, spec.training.max_steps
    if total is None and epochs is not None and per_epoch is not None:
        total = epochs * per_epoch
    elif total is not None and per_epoch is not None:
        epochs = ceil(total / per_epoch)
    optimizer = spec.training.optimizer
    ratio, warmup = optimizer.effective_warmup_ratio, optimizer.warmup_steps
    if ratio is not None and total is not None:
        warmup = ceil(ratio * total)
    return Steps(rows_per_epoch=rows, steps_per_epoch=per_epoch, epochs=epochs, total=total, warmup=warmup)


def evaluation_interval(evaluation: Evaluation, steps_per_epoch: int) -> int:
    """Optimizer steps between two evaluations.

    >>> evaluation_interval(Evaluation(every_epochs=2), 30), evaluation_interval(Evaluation(every_steps=100), 30)
    (60, 100)
    """
    return evaluation.every_steps or evaluation.every_epochs * steps_per_epoch


def num_evaluations(spec: FineTuneJobSpec, steps: Steps) -> int | None:
    """Evaluations of a run that goes to its last step: at step 0, then every so many steps and at the end; None is unknown."""
    if spec.dataset.evaluation is None:
        return 0
    if steps.total is None or (steps.steps_per_epoch is None and spec.evaluation.every_steps is None):
        return None
    return 1 + ceil(steps.total / evaluation_interval(spec.evaluation, steps.steps_per_epoch or 0))


def model_flops_per_token(spec: FineTuneJobSpec, shape: ModelShape, data: DataShape | None) -> float:
    """6 P a token and 12 H times the mean length that a token attends over, of each layer: what the model asks for, without recomputation.

    P: the parameters that a token meets. Those of a frozen base need no gradient of their own: 4 P, and what adapters add is left out.
    """
    lengths = shape.layers * mean_length(spec, shape, data)
    return (6.0 if spec.training.method == "full" else 4.0) * _met(shape) + 12.0 * shape.attention_heads * shape.head_size * lengths


def mean_length(spec: FineTuneJobSpec, shape: ModelShape, data: DataShape | None) -> float:
    """Tokens of a segment, on average over tokens and layers.

    A window of w tokens is a length of 2 w: a token attends to half of a length on average, and to all of a window. Without data the
    length is that of a full row, which is the most it can be.
    """
    length = data.train.squared_lengths / data.train.tokens if data and data.train.tokens else float(spec.training.max_sequence_length)
    windowed = (shape.sliding_layers or shape.layers) if shape.sliding_window else 0
    return ((shape.layers - windowed) * length + windowed * min(length, 2.0 * (shape.sliding_window or 0))) / shape.layers


def peak_flops(spec: FineTuneJobSpec, card: Accelerator | None, precision: Literal["bf16", "fp16", "fp32"]) -> float | None:
    """Operations a second of one worker at most: workers.peakTeraflops, or the GPU's in 16 bits; None where neither is known."""
    if spec.workers.peak_teraflops is not None:
        return spec.workers.peak_teraflops * 1e12
    if card is None or precision == "fp32" or device(spec) == "cpu":
        return None
    return card.bf16_flops if precision == "bf16" else card.fp16_flops


def flops_at_full_use(spec: FineTuneJobSpec, plan: Plan) -> float | None:
    """Operations a second of all workers at most; None where no peak is known."""
    peak = peak_flops(spec, accelerator(plan.accelerator or ""), plan.precision)
    return None if peak is None else plan.world_size * peak


def model_flops_utilisation(run: TrainingRun, tokens_per_second: float) -> float | None:
    """MFU: the operations that the model asks for at that speed of all workers, as a share of their peaks; None where no peak is known."""
    full = flops_at_full_use(run.job.spec, run.plan)
    return None if full is None else tokens_per_second * model_flops_per_token(run.job.spec, run.model_shape, run.data) / full


def _met(shape: ModelShape) -> int:
    """Parameters that one token meets."""
    return shape.active_parameters or shape.parameters


def trained_tokens(spec: FineTuneJobSpec, data: DataShape | None, steps: Steps) -> float | None:
    """Tokens of a run that goes to its last step; None is unknown."""
    if data is None or steps.total is None or steps.steps_per_epoch is None:
        return None
    return data.train.tokens * steps.total / steps.steps_per_epoch


def evaluation_tokens(spec: FineTuneJobSpec, data: DataShape | None, steps: Steps) -> float:
    """Tokens of all evaluations."""
    if data is None or data.evaluation is None:
        return 0.0
    return float(data.evaluation.tokens * (num_evaluations(spec, steps) or 0))


def evaluation_share(spec: FineTuneJobSpec, data: DataShape | None, steps: Steps) -> float | None:
    """Share of all operations that evaluations take, of a run that goes to its last step; None is unknown.

    A forward pass is a third of a token's operations in training, and a quarter where activations are recomputed.
    """
    trained = trained_tokens(spec, data, steps)
    if not trained:
        return None
    evaluated = evaluation_tokens(spec, data, steps) / (4.0 if spec.training.activation_checkpointing else 3.0)
    return evaluated / (trained + evaluated)
