"""How long a run holds its machines: a step's time, times the run's tokens, and what comes on top of steps.

In: the job, what a worker carries, the data's shape, the GPU model, what earlier runs say. Out: a Duration whose unknowns are None. Two
ends: the slower one, which is what a plan counts with, and what a tuned stack and a fast network reach at best.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.accelerators import Accelerator
from finetune_api.calibration import Calibration
from finetune_api.checks import device
from finetune_api.duration import (
    Steps,
    evaluation_tokens,
    mean_length,
    model_flops_per_token,
    num_evaluations,
    peak_flops,
    trained_tokens,
)
from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.load import Load
from finetune_api.step_time import AT_BEST, RECIPE_SLOWDOWN, Speeds, StepTime, Work, cpu_speeds, speeds, step_time
from finetune_api.training_run import DataShape, Timing

# A CPU worker's operations a second, where earlier runs say by how much that is wrong.
_NOMINAL_CPU_FLOPS: Final = 50e9
# Assumed: Ray and workers start, libraries load.
_START_SECONDS: Final = 120.0
# Assumed: bytes a second at which a node fetches weights, and at which a worker writes a checkpoint.
_FETCHED: Final = 500e6
_STORED: Final = 250e6
# And at which it copies its part to host memory, which is all that training waits for but at the end (docs/decisions/0027).
_COPIED: Final = 10e9
# As the trainer takes checkpoints where a job doesn't say when: `training/loop.py`.
_FIRST_INTERVAL: Final = 300.0
_SHORTEST_INTERVAL: Final = 60.0
_BETWEEN_FAILURES: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """What a run costs in time; None is unknown. `computing`: a step's seconds without communication (`StepTime`), at best."""

    flops_per_token: float | None = None
    efficiency: float | None = None
    seconds_per_step: float | None = None
    seconds: float | None = None
    gpu_hours: float | None = None
    timing: Timing | None = None
    computing: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that a run's time follows from. `rows`: of a full step; `network`: bytes a second between nodes, where that is known."""

    spec: FineTuneJobSpec
    load: Load
    data: DataShape | None
    card: Accelerator | None
    steps: Steps
    rows: int
    checkpoint_bytes: int
    network: float | None = None
    earlier: Calibration | None = None

    @property
    def work(self) -> Work:
        """One worker's part of a full step."""
        row = self.spec.training.max_sequence_length
        return Work(
            load=self.load,
            nodes=self.spec.workers.nodes,
            micro_steps=max(1, self.rows * row // (self.load.tokens * self.load.world_size)),
            length=mean_length(self.spec, self.load.shape, self.data),
        )


def run_duration(setting: Setting) -> Duration:
    """The time, where a peak is known or earlier runs tell a speed."""
    spec, load = setting.spec, setting.load
    each = model_flops_per_token(spec, load.shape, setting.data)
    executed = each * (1 + load.recomputed_share / 3)
    ends = _ends(setting)
    if ends is None:
        return Duration(flops_per_token=executed)
    slow, best = ends
    timing = _timing(setting, slow, best)
    peak = peak_flops(spec, setting.card, load.precision)
    per_step = setting.rows * spec.training.max_sequence_length
    gpus = load.world_size if device(spec) == "gpu" else 0
    return Duration(
        flops_per_token=executed,
        efficiency=None if peak is None else per_step * executed / slow.seconds / (load.world_size * peak),
        seconds_per_step=slow.seconds,
        seconds=_in_steps(setting, slow),
        gpu_hours=timing.held_seconds * gpus / 3600 if timing.held_seconds is not None and gpus else None,
        timing=timing,
        computing=best.computing,
    )


def _ends(setting: Setting) -> tuple[StepTime, StepTime] | None:
    """A step at the slower end and at best; the same where earlier runs tell."""
    peak, earlier = peak_flops(setting.spec, setting.card, setting.load.precision), setting.earlier
    if earlier is not None and earlier.step is not None:
        stack = replace(AT_BEST, slowdown=earlier.step)
        step = step_time(setting.work, _machine(setting, peak or _NOMINAL_CPU_FLOPS, slowest=False), stack)
        return step, step
    if peak is None:
        return None
    slow = step_time(setting.work, _machine(setting, peak, slowest=True), replace(AT_BEST, slowdown=RECIPE_SLOWDOWN))
    return slow, step_time(setting.work, _machine(setting, peak, slowest=False), AT_BEST)


def _machine(setting: Setting, peak: float, *, slowest: bool) -> Speeds:
    if device(setting.spec) == "cpu":
        return cpu_speeds(peak, setting.network)
    return speeds(setting.card, peak, setting.network, slowest=slowest)


def _timing(setting: Setting, slow: StepTime, best: StepTime) -> Timing:
    peak = peak_flops(setting.spec, setting.card, setting.load.precision)
    tokens = setting.rows * setting.spec.training.max_sequence_length
    asked = model_flops_per_token(setting.spec, setting.load.shape, setting.data) * tokens
    full = None if peak is None else setting.load.world_size * peak
    start, checkpoint = _start_seconds(setting), _checkpoint_seconds(setting)
    ends = [(seconds, _checkpoints(setting, seconds, checkpoint)) for seconds in (_in_steps(setting, slow), _in_steps(setting, best))]
    copied = _copy_seconds(setting)
    held = [None if seconds is None or count is None else start + seconds + (count - 1) * copied + checkpoint for seconds, count in ends]
    return Timing(
        terms=slow.terms,
        seconds_per_step=slow.seconds,
        best_seconds_per_step=best.seconds,
        mfu=None if full is None else asked / slow.seconds / full,
        best_mfu=None if full is None else asked / best.seconds / full,
        best_seconds=ends[1][0],
        start_seconds=start,
        checkpoint_seconds=checkpoint,
        checkpoints=ends[0][1],
        held_seconds=held[0],
        best_held_seconds=held[1],
        calibrated_by=setting.earlier.runs if setting.earlier else 0,
    )


def _in_steps(setting: Setting, step: StepTime) -> float | None:
    """All steps and evaluations. What a step takes by its tokens goes with the run's tokens, the update with its steps."""
    steps, spec, load = setting.steps, setting.spec, setting.load
    if steps.total is None:
        return None
    trained = trained_tokens(spec, setting.data, steps)
    if trained is None:
        return step.seconds * steps.total  # full rows: the most it can be
    per_step = setting.rows * spec.training.max_sequence_length
    update = sum(term.seconds for term in step.terms if term.name == "optimizer's update")
    by_token = (step.seconds - update) / per_step
    # A forward pass is a third of a token's operations in training, and a quarter where activations are recomputed.
    evaluated = evaluation_tokens(spec, setting.data, steps) / (3 + load.recomputed_share)
    return by_token * (trained + evaluated) + update * steps.total


def _start_seconds(setting: Setting) -> float:
    """Until the first step; a node fetches the weights once."""
    return _START_SECONDS + setting.load.shape.parameters * setting.load.width / _FETCHED


def _checkpoint_seconds(setting: Setting) -> float:
    """Every rank writes its part."""
    each = setting.earlier.checkpoint_bytes_per_second if setting.earlier else None
    return setting.checkpoint_bytes / (setting.load.world_size * (each or _STORED))


def _copy_seconds(setting: Setting) -> float:
    """What training waits for a checkpoint that is written beside it."""
    return setting.checkpoint_bytes / (setting.load.world_size * _COPIED)


def _checkpoints(setting: Setting, seconds: float | None, written: float) -> int | None:
    """How many a run takes; the last state is always one."""
    spec, total = setting.spec, setting.steps.total
    if seconds is None or total is None:
        return None
    every = spec.checkpoints.every
    if every is not None and every.steps:
        count = math.ceil(total / every.steps)
    elif every is not None and every.seconds:
        count = int(seconds // every.seconds) + 1
    else:
        interval = max(math.sqrt(2.0 * _copy_seconds(setting) * _BETWEEN_FAILURES), written, _SHORTEST_INTERVAL)
        count = 1 + (int((seconds - _FIRST_INTERVAL) // interval) + 1 if seconds > _FIRST_INTERVAL else 0)
    if spec.publish.checkpoint == "best":
        count = max(count, num_evaluations(spec, setting.steps) or 0)
    return min(count, total)
