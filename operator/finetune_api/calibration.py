"""What earlier runs say of a machine: by how much their steps took longer than planned, how much memory they needed, how fast they stored.

In: for each run what was planned and what was seen. Out: a Calibration, the median of each. Reading runs is others' business.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from finetune_api.memory import sizes
from finetune_api.training_run import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A run: its plan without calibration, and what was measured of it. None was not measured.

    `memory_bytes` is a worker's peak; on a CPU that of its process, which held `footprint_bytes` before the model was read.
    """

    plan: Plan
    step_seconds: float | None = None
    memory_bytes: int | None = None
    footprint_bytes: int | None = None
    checkpoint_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`step` is a factor on its time at best, `beside_bytes` memory that no term of a plan explains. None where no run tells."""

    runs: int
    step: float | None = None
    beside_bytes: int | None = None
    footprint_bytes: int | None = None
    checkpoint_bytes_per_second: float | None = None


def calibration(seen: Sequence[Seen]) -> Calibration | None:
    """The medians over the runs; None without any."""
    if not seen:
        return None
    footprint, beside = _median(run.footprint_bytes for run in seen if run.footprint_bytes), _median(map(_beside, seen))
    return Calibration(
        runs=len(seen),
        step=_median(run.step_seconds / run.plan.timing.best_seconds_per_step for run in seen if run.step_seconds and run.plan.timing),
        beside_bytes=None if beside is None else int(beside),
        footprint_bytes=None if footprint is None else int(footprint),
        checkpoint_bytes_per_second=_median(run.checkpoint_bytes_per_second for run in seen if run.checkpoint_bytes_per_second),
    )


def _beside(run: Seen) -> int | None:
    """What no term explains of the memory that was seen; nothing where terms say more than was seen."""
    planned = run.plan.memory
    if run.memory_bytes is None or planned is None or (run.plan.device == "cpu" and not run.footprint_bytes):
        return None  # on a CPU, how much of the process was there before
    explained = sum(sizes(term for term in planned.terms if term.basis != "assumed"))
    return max(0, run.memory_bytes - (run.footprint_bytes or 0) - explained)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
