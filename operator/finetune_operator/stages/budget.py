"""GPU hours: what a job's attempts used of `budget.gpuHours`, and when it is used up. Pure.

An attempt counts the GPUs that it began with for as long as all of its pods ran; workers on CPUs hold none. What attempts used
that ended is in the status; the running one's share is worked out here.
"""

from finetune_api.checks import device
from finetune_api.finetunejob import FineTuneJob
from finetune_api.reasons import Reason
from finetune_api.status import AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_api.times import moment, seconds_between
from finetune_operator.observation import Observed, is_running
from finetune_operator.stages.planning import job_of


def gpus(job: FineTuneJob) -> int:
    """What the job's workers hold."""
    workers = job.spec.workers
    return workers.nodes * workers.gpus_per_node if device(job.spec) == "gpu" else 0


def held_seconds(observed: Observed, attempt: AttemptStatus) -> float:
    """How long all of the attempt's pods have run: until its RayJob ended, however much later that is seen."""
    rayjob = observed.rayjob_of(attempt)
    ended = moment(rayjob.ended) if rayjob is not None and rayjob.terminal else None
    return seconds_between(attempt.running_time, min(ended or observed.now, observed.now)) or 0.0


def gpu_hours(observed: Observed, attempt: AttemptStatus) -> float:
    """What the attempt has held; its workers may have been changed since it began."""
    return held_seconds(observed, attempt) * _gpus_of(observed, attempt) / 3600


def seconds_left(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """How long an attempt may hold the job's GPUs, 0 when the budget is used up; None without a budget, and without GPUs."""
    allowed = job_of(observed).spec.budget.gpu_hours
    held = _gpus_of(observed, status.attempts[-1]) if is_running(status) else gpus(job_of(observed))
    if allowed is None or not held:
        return None
    return max(allowed - _used(observed, status), 0.0) * 3600 / held


def used_up(observed: Observed, status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where nothing of the budget is left."""
    if seconds_left(observed, status) != 0.0:
        return None
    told = (
        f"budget.gpuHours is {job_of(observed).spec.budget.gpu_hours:g}, and {_used(observed, status):.2f} were used; "
        "raise it and spec.retry to go on from the newest checkpoint"
    )
    return Reason.BUDGET_EXCEEDED, told


def _gpus_of(observed: Observed, attempt: AttemptStatus) -> int:
    return gpus(job_of(observed)) if attempt.gpus is None else attempt.gpus


def _used(observed: Observed, status: FineTuneJobStatus) -> float:
    """GPU hours of all attempts so far."""
    ended = (status.usage or UsageStatus()).gpu_hours
    return ended + (gpu_hours(observed, status.attempts[-1]) if is_running(status) else 0.0)
