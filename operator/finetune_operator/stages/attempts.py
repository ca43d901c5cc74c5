"""The record of attempts in the status: entering one, following it, ending it. Pure; when that happens is training's decision.

Attempt n+1 is entered in the status, under the precondition that nobody changed it, before anything of it is made; so two
operators can't begin two attempts.
"""

from math import exp

from finetune_api.bounded_text import shortened
from finetune_api.report import FineTuneReportStatus
from finetune_api.status import (
    LONGEST_MESSAGE,
    AttemptStatus,
    CheckpointsStatus,
    CheckpointStatus,
    EvaluationStatus,
    FineTuneJobStatus,
    ProgressStatus,
    RayJobReference,
    UsageStatus,
    eta_text,
    newest,
)
from finetune_api.times import is_ahead, moment, seconds_between, timestamp
from finetune_operator.failures import CHARGED, Ending
from finetune_operator.observation import Observed, RayJob, last_attempt
from finetune_operator.stages.budget import gpu_hours, gpus, held_seconds
from finetune_operator.stages.planning import job_of

# The driver reports at least every minute. Longer silence while an attempt runs is told.
STALE_SECONDS = 120.0
# And then ends it: longer than the driver itself waits for its ranks, so that the driver's words come first.
SILENT_SECONDS = 1200.0


def entered(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None = None) -> FineTuneJobStatus:
    """The status with another attempt; `rayjob` where others gave the last one's RayJob a new RayCluster."""
    assert status.run is not None
    at = timestamp(observed.now)
    latest = status.checkpoints.latest if status.checkpoints else None
    attempt = AttemptStatus(
        number=status.attempt + 1,
        start_time=at,
        # A RayJob that goes on mounts the run that it was made with.
        run_digest=status.attempts[-1].run_digest if rayjob else status.run.digest,
        gpus=status.attempts[-1].gpus if rayjob else gpus(job_of(observed)),
        first_step=latest.step if latest else 0,
        ray_job=RayJobReference(name=rayjob.name, uid=rayjob.uid, cluster=rayjob.cluster or None) if rayjob else None,
    )
    return status.model_copy(
        update={
            "attempt": attempt.number,
            "attempts": newest([*status.attempts, attempt]),
            "start_time": status.start_time or at,
            "progress": None,
            "dashboard": None,
        }
    )


def with_last(status: FineTuneJobStatus, **changes: object) -> FineTuneJobStatus:
    """The status with the last attempt changed."""
    last = status.attempts[-1].model_copy(update=changes)
    return status.model_copy(update={"attempts": [*status.attempts[:-1], last]})


def recorded(status: FineTuneJobStatus, rayjob: RayJob) -> FineTuneJobStatus:
    """The status with the RayJob of the last attempt, and its RayCluster once KubeRay has named one."""
    known = status.attempts[-1].ray_job
    cluster = (known.cluster if known else None) or rayjob.cluster or None
    status = with_last(status, ray_job=RayJobReference(name=rayjob.name, uid=rayjob.uid, cluster=cluster))
    return status.model_copy(update={"dashboard": rayjob.dashboard[:2048] or status.dashboard})


def reported(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with what the running attempt's own driver reports."""
    attempt = last_attempt(status)
    report = observed.report_of(attempt) if attempt else None
    if report is None or attempt is None:
        return status
    status = with_last(status, last_step=report.step if report.step is not None else attempt.last_step)
    return status.model_copy(
        update={
            "progress": _progress(report, status.progress),
            "checkpoints": _checkpoints(status.checkpoints, report),
            "evaluation": _evaluation(status.evaluation, report),
        }
    )


def _progress(report: FineTuneReportStatus, known: ProgressStatus | None) -> ProgressStatus:
    reported_at = report.reported_at if moment(report.reported_at) else None
    return ProgressStatus(
        step=report.step or 0,
        total_steps=report.total_steps,
        loss=report.loss,
        tokens_per_second=report.tokens_per_second,
        eta=eta_text(report.eta_seconds) if report.eta_seconds is not None else None,
        reported_at=reported_at,
        stale_time=known.stale_time if known is not None and known.reported_at == reported_at else None,
    )


def _checkpoints(known: CheckpointsStatus | None, report: FineTuneReportStatus) -> CheckpointsStatus | None:
    """The checkpoints with the reported one, unless it is known or older than what is known of its writer."""
    found = report.checkpoint
    if found is None:
        return known
    new = CheckpointStatus(
        step=found.step,
        attempt=found.attempt,
        bytes=found.bytes,
        committed_at=found.committed_at if moment(found.committed_at) else None,
    )
    ledger = known.ledger if known else []
    if known is not None and known.latest is not None and (new.attempt, new.step) <= (known.latest.attempt, known.latest.step):
        return known
    return CheckpointsStatus(latest=new, ledger=newest([*ledger, new]))


def _evaluation(known: EvaluationStatus | None, report: FineTuneReportStatus) -> EvaluationStatus | None:
    found = report.evaluation
    return known if found is None else evaluation_status(found.step, found.loss)


def evaluation_status(step: int, loss: float) -> EvaluationStatus:
    """An evaluation with its perplexity, where that is a number that anybody reads."""
    return EvaluationStatus(step=step, loss=loss, perplexity=exp(loss) if loss < 50 else None)


def ended(observed: Observed, status: FineTuneJobStatus, ending: Ending) -> FineTuneJobStatus:
    """The status with the last attempt ended, and what it used."""
    attempt = status.attempts[-1]
    charged = ending.outcome in CHARGED
    usage = _used(observed, status.usage or UsageStatus(), attempt, charged)
    status = with_last(
        status,
        completion_time=timestamp(observed.now),
        outcome=ending.outcome,
        reason=ending.reason[:64],
        message=shortened(ending.message, LONGEST_MESSAGE) or None,
        charged=charged,
        pods=None,
        lost=None,
        lost_time=None,
        out_of_memory=None,
    )
    quiet = {"stale": False, "stale_time": None, "eta": None}
    progress = status.progress.model_copy(update=quiet) if status.progress else None
    return status.model_copy(update={"usage": usage, "progress": progress, "dashboard": None})


def _used(observed: Observed, usage: UsageStatus, attempt: AttemptStatus, charged: bool) -> UsageStatus:
    """What an attempt adds: its GPUs for as long as all of its pods ran."""
    held = held_seconds(observed, attempt)
    report = observed.report_of(attempt)
    goodput_seconds = usage.goodput_seconds + (min(report.goodput_seconds or 0.0, held) if report else 0.0)
    # A status that an older operator wrote has the share alone.
    before = usage.held_seconds or (usage.goodput_seconds / usage.goodput if usage.goodput else 0.0)
    all_held = before + held
    return UsageStatus(
        gpu_hours=round(usage.gpu_hours + gpu_hours(observed, attempt), 6),
        held_seconds=round(all_held, 3),
        goodput_seconds=round(goodput_seconds, 3),
        goodput=round(goodput_seconds / all_held, 4) if all_held else None,
        charged_failures=usage.charged_failures + (1 if charged else 0),
        forgiven_failures=usage.forgiven_failures,
    )


def staleness(observed: Observed, status: FineTuneJobStatus) -> tuple[FineTuneJobStatus, float | None]:
    """The status that says whether the progress is stale, and when to look again. Silence counts from when all pods ran."""
    attempt, progress = last_attempt(status), status.progress or ProgressStatus()
    if attempt is None or attempt.running_time is None:
        return status, None
    since = max(filter(None, (moment(progress.reported_at), moment(attempt.running_time))))
    silent = max((observed.now - since).total_seconds(), 0.0)
    if silent >= STALE_SECONDS:
        known = None if is_ahead(progress.stale_time, observed.now) else progress.stale_time
        progress = progress.model_copy(update={"stale": True, "stale_time": known or timestamp(observed.now)})
        left = SILENT_SECONDS - (seconds_between(progress.stale_time, observed.now) or 0.0)
        return status.model_copy(update={"progress": progress}), left if left > 0 else None
    return status, STALE_SECONDS - silent
