"""`budget`: how much of the GPU hours and of the time is left. Pure; what pods hold is counted in `usage`."""

from typing import Final

from finetune_api.reasons import Reason
from finetune_api.status import AttemptStatus, FineTuneJobStatus
from finetune_api.times import moment, seconds_between
from finetune_operator.observation import Observed
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import sooner
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.sizing import attempted
from finetune_operator.usage import gpus, held_gpus, used_gpu_hours

# What the end of pods takes besides their checkpoint.
_ENDING_SECONDS: Final = 120.0


def held_seconds(observed: Observed, attempt: AttemptStatus) -> float:
    """How long all of the attempt's pods have run: until its RayJob ended, however much later that is seen."""
    rayjob = observed.rayjob_of(attempt)
    ended = moment(rayjob.ended) if rayjob is not None and rayjob.terminal else None
    return seconds_between(attempt.running_time, min(ended or observed.now, observed.now)) or 0.0


def seconds_left(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """How long pods may go on to hold the GPUs that they hold now; None without a budget, and while they hold none."""
    left, held = _gpu_hours_left(observed, status), held_gpus(observed, status)
    return left * 3600 / held if left is not None and held else None


def used_up(observed: Observed, status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where nothing of the GPU hours is left."""
    if _gpu_hours_left(observed, status) != 0.0:
        return None
    told = (
        f"budget.gpuHours is {job_of(observed).spec.budget.gpu_hours:g}, and {used_gpu_hours(observed, status):.2f} were used; "
        "raise it and spec.retry to go on from what is kept"
    )
    return Reason.BUDGET_EXCEEDED, told


def active_seconds(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """How long ago the first preparation was made. What an operator of before began counts from its first attempt."""
    return seconds_between(status.active_time or status.start_time, observed.now)


def attempt_seconds(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> float | None:
    """How long an attempt that begins now may last, for KubeRay to end it where there is no operator; None is for ever.

    For the GPU hours: when an operator would have ended it long ago, however long pods took to start.
    """
    job = attempted(job_of(observed), status)
    spec, hours, wanted = job.spec, _gpu_hours_left(observed, status), gpus(job)
    deadline, waited = spec.budget.active_deadline_seconds, active_seconds(observed, status)
    time = deadline - (waited or 0.0) if deadline is not None else None
    if hours is None or not wanted:
        return time
    return sooner(time, hours * 3600 / wanted + spec.workers.start_deadline_seconds + settings.stop_seconds + _ENDING_SECONDS)


def _gpu_hours_left(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """None without a budget."""
    allowed = job_of(observed).spec.budget.gpu_hours
    return None if allowed is None else max(allowed - used_gpu_hours(observed, status), 0.0)
