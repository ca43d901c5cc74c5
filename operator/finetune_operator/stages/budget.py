"""GPU hours: what a job's attempts used of `budget.gpuHours`, and when it is used up. Pure.

An attempt counts its GPUs for as long as all of its pods ran; workers on CPUs hold none. What attempts used that ended is in
the status; the running one's share is worked out here.
"""

from finetune_api.checks import device
from finetune_api.finetunejob import FineTuneJob
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, UsageStatus
from finetune_api.times import seconds_between
from finetune_operator.observation import Observed, is_running
from finetune_operator.stages.planning import job_of


def gpu_hours(job: FineTuneJob, seconds: float) -> float:
    """What the job's workers hold in that time."""
    return seconds * _gpus(job) / 3600


def seconds_left(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """How long an attempt may hold the job's GPUs, 0 when the budget is used up; None without a budget, and without GPUs."""
    job = job_of(observed)
    if job.spec.budget.gpu_hours is None or not _gpus(job):
        return None
    return max(job.spec.budget.gpu_hours - _used(observed, status), 0.0) * 3600 / _gpus(job)


def used_up(observed: Observed, status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where nothing of the budget is left."""
    if seconds_left(observed, status) != 0.0:
        return None
    told = (
        f"budget.gpuHours is {job_of(observed).spec.budget.gpu_hours:g}, and {_used(observed, status):.2f} were used; "
        "raise it and spec.retry to go on from the newest checkpoint"
    )
    return Reason.BUDGET_EXCEEDED, told


def _gpus(job: FineTuneJob) -> int:
    workers = job.spec.workers
    return workers.nodes * workers.gpus_per_node if device(job.spec) == "gpu" else 0


def _used(observed: Observed, status: FineTuneJobStatus) -> float:
    """GPU hours of all attempts so far."""
    ended = (status.usage or UsageStatus()).gpu_hours
    held = seconds_between(status.attempts[-1].running_time, observed.now) if is_running(status) else None
    return ended + gpu_hours(job_of(observed), held or 0.0)
