"""The record of attempts in the status: entering one, following it, ending it. Pure; when that happens is training's decision.

Attempt n+1 is entered in the status, under the precondition that nobody changed it, before anything of it is made; so two
operators can't begin two attempts.
"""

from collections.abc import Sequence
from math import exp

from finetune_api.bounded_text import shortened
from finetune_api.failure_class import failure_class
from finetune_api.reasons import Reason
from finetune_api.report import FineTuneReportStatus
from finetune_api.status import (
    LONGEST_MESSAGE,
    MOST_NODES,
    AttemptOutcome,
    AttemptPod,
    AttemptStatus,
    CheckpointsStatus,
    CheckpointStatus,
    EvaluationStatus,
    FineTuneJobStatus,
    PlanStatus,
    ProgressStatus,
    RayJobReference,
    RestartsStatus,
    UsageStatus,
    eta_text,
    newest,
)
from finetune_api.times import is_ahead, moment, seconds_between, timestamp
from finetune_api.training_run import TrainingRun
from finetune_operator.failures import CHARGED, Ending
from finetune_operator.observation import Observed, RayJob, last_attempt
from finetune_operator.pods import Pod
from finetune_operator.post_mortem import evidence
from finetune_operator.resources.avoidance import WHY_AVOIDED
from finetune_operator.stages.budget import held_seconds
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.resizing import resized
from finetune_operator.stages.sizing import after_memory, attempted
from finetune_operator.usage import gpus

# The driver reports at least every minute. Longer silence while an attempt runs is told.
STALE_SECONDS = 120.0
# A node that attempts failed on is avoided this long.
_AVOIDED_SECONDS = 24 * 3600.0
# And then ends it: longer than the driver itself waits for its ranks, so that the driver's words come first.
SILENT_SECONDS = 1200.0
# Ends after which nothing has to be counted: someone suspended the job, or it is done.
_OF_A_PERSON = (AttemptOutcome.STOPPED, AttemptOutcome.FINISHED)
# No share is above one; what a report makes of it is kept short of infinity.
_MOST_MFU = 100.0


def entered(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None = None) -> FineTuneJobStatus:
    """The status with another attempt; `rayjob` where others gave the last one's RayJob a new RayCluster."""
    assert status.run is not None
    at = timestamp(observed.now)
    latest = status.checkpoints.latest if status.checkpoints else None
    last = status.attempts[-1] if rayjob else None
    job = attempted(job_of(observed), status)
    attempt = AttemptStatus(
        number=status.attempt + 1,
        start_time=at,
        # A RayJob that goes on mounts the run that it was made with.
        run_digest=last.run_digest if last else status.run.digest,
        gpus=last.gpus if last else gpus(job),
        worker_pods=last.worker_pods if last else job.spec.workers.nodes,
        micro_batch_size=last.micro_batch_size if last else _micro_batch_size(observed, status),
        avoided_nodes=last.avoided_nodes if last else (failing_nodes(observed, status) or None),
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


def _micro_batch_size(observed: Observed, status: FineTuneJobStatus) -> int | None:
    """Of the run that the next attempt executes; None where only its image can read it."""
    return status.plan.micro_batch_size if status.plan is not None and not observed.has_former_run else None


def failing_nodes(observed: Observed, status: FineTuneJobStatus) -> list[str]:
    """Nodes that two attempts of the last day failed on, or that the check at the start of one found slow or faulty."""
    recent = [one for one in status.attempts if (seconds_between(one.completion_time, observed.now) or 0.0) < _AVOIDED_SECONDS]
    blamed = [one.failed_node for one in recent if one.failed_node is not None]
    blamed += [one.restarts.node for one in recent if one.restarts is not None and one.restarts.node is not None]
    slow = [node for one in recent for node in one.slow_nodes or ()]
    return list(dict.fromkeys([*slow, *(node for node in blamed if blamed.count(node) > 1)]))[:MOST_NODES]


def told_of_avoided(attempt: AttemptStatus) -> str:
    """What is told of the nodes that the attempt avoids; empty when there is none."""
    nodes = attempt.avoided_nodes or []
    return f"it avoids {', '.join(nodes)}, {WHY_AVOIDED}" if nodes else ""


def with_last(status: FineTuneJobStatus, **changes: object) -> FineTuneJobStatus:
    """The status with the last attempt changed."""
    last = status.attempts[-1].model_copy(update=changes)
    return status.model_copy(update={"attempts": [*status.attempts[:-1], last]})


def recorded(status: FineTuneJobStatus, rayjob: RayJob) -> FineTuneJobStatus:
    """The status with the RayJob of the last attempt, and its RayCluster once KubeRay has named one.

    For a RayJob that was held back from the start KubeRay names one, too, makes nothing of it, and names another one later.
    """
    known = status.attempts[-1].ray_job
    named = None if rayjob.queued and not rayjob.job_status else rayjob.cluster
    cluster = (known.cluster if known else None) or named or None
    status = with_last(status, ray_job=RayJobReference(name=rayjob.name, uid=rayjob.uid, cluster=cluster))
    return status.model_copy(update={"dashboard": rayjob.dashboard[:2048] or status.dashboard})


def reported(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with what the running attempt's own driver reports."""
    attempt = last_attempt(status)
    report = observed.report_of(attempt) if attempt else None
    if report is None or attempt is None:
        return status
    # A job that was deleted and applied again goes on from a checkpoint that its status knows nothing of.
    first_step = report.first_step if report.first_step is not None else attempt.first_step
    status = with_last(
        status,
        first_step=first_step,
        last_step=report.step if report.step is not None else attempt.last_step,
        slow_nodes=_slow_nodes(report, attempt) or attempt.slow_nodes,
        restarts=_restarts(report, attempt),
    )
    return status.model_copy(
        update={
            "usage": _with_charged_restarts(status, attempt),
            "progress": _progress(report, status),
            "checkpoints": _checkpoints(status.checkpoints, report),
            "evaluation": _evaluation(status.evaluation, report),
        }
    )


def failures_left(observed: Observed, status: FineTuneJobStatus) -> int:
    """Failures that the job may have and still go on."""
    usage = status.usage or UsageStatus()
    return max(job_of(observed).spec.failure_policy.max_failures - (usage.charged_failures - usage.forgiven_failures), 0)


def _restarts(report: FineTuneReportStatus, attempt: AttemptStatus) -> RestartsStatus | None:
    """The attempt's starts in place with those that the driver tells of; what was counted once stays."""
    known, told = attempt.restarts or RestartsStatus(), report.restarts
    if told is None:
        return attempt.restarts
    nodes = _nodes_of(attempt, told.hosts or ())
    return known.model_copy(
        update={
            "count": max(known.count, told.count),
            "charged": max(known.charged, min(told.charged, told.count)),
            "since": told.since if not report.is_over and moment(told.since) else None,
            "reason": told.reason,
            "message": told.message,
            "node": nodes[0] if nodes else (known.node if told.message == known.message else None),
        }
    )


def _with_charged_restarts(status: FineTuneJobStatus, before: AttemptStatus) -> UsageStatus | None:
    """What was used, with the failures of starts in place that are new."""
    after = status.attempts[-1].restarts
    new = (after.charged if after else 0) - (before.restarts.charged if before.restarts else 0)
    if new == 0:
        return status.usage
    usage = status.usage or UsageStatus()
    return usage.model_copy(update={"charged_failures": usage.charged_failures + new})


def _slow_nodes(report: FineTuneReportStatus, attempt: AttemptStatus) -> list[str]:
    """Nodes of the hosts that the report calls slow or faulty."""
    return _nodes_of(attempt, report.slow_hosts or ())[:MOST_NODES]


def _nodes_of(attempt: AttemptStatus, hosts: Sequence[str]) -> list[str]:
    """Nodes of the attempt by their hosts: a host is a pod, by the first 63 characters of its name, or a node."""
    found = [one.node for one in attempt.pods or () if one.node is not None and (one.name[:63] in hosts or one.node in hosts)]
    return list(dict.fromkeys(found))


def _progress(report: FineTuneReportStatus, status: FineTuneJobStatus) -> ProgressStatus:
    known = status.progress
    reported_at = report.reported_at if moment(report.reported_at) else None
    return ProgressStatus(
        step=report.step or 0,
        total_steps=report.total_steps,
        loss=report.loss,
        tokens_per_second=report.tokens_per_second,
        wall_tokens_per_second=report.wall_tokens_per_second,
        mfu=_mfu(report.tokens_per_second, status.plan),
        spread=report.spread,
        slowest=report.slowest,
        eta=eta_text(report.eta_seconds) if report.eta_seconds is not None else None,
        reported_at=reported_at,
        stale_time=known.stale_time if known is not None and known.reported_at == reported_at else None,
    )


def _mfu(tokens_per_second: float | None, plan: PlanStatus | None) -> float | None:
    """Model FLOPs utilisation at that speed; None where the peak isn't known. The speed is a report's, which may be anything."""
    if tokens_per_second is None or plan is None or not plan.flops_per_token or not plan.peak_flops:
        return None
    return round(min(tokens_per_second * plan.flops_per_token / plan.peak_flops, _MOST_MFU), 4)


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
        seconds=found.seconds,
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


def trained_step(status: FineTuneJobStatus, run: TrainingRun) -> int | None:
    """The step that the training ended with, once it has; None where an early end was told without it."""
    last = last_attempt(status)
    return last.last_step if last is not None and last.reason == Reason.STOPPED_EARLY else run.plan.total_steps


def ended(observed: Observed, status: FineTuneJobStatus, ending: Ending) -> FineTuneJobStatus:
    """The status with the last attempt ended, and what it used."""
    attempt = status.attempts[-1]
    charged = ending.outcome in CHARGED
    usage = _used(observed, status.usage or UsageStatus(), attempt, charged)
    uncounted = _uncounted_gpu_hours(observed, attempt)
    adjusted, smaller = after_memory(job_of(observed), status, attempt, ending)
    adjusted, resizes = resized(observed, status.model_copy(update={"adjusted": adjusted}), attempt, ending)
    remedy = "; ".join(filter(None, (smaller, resizes)))
    status = with_last(
        status,
        completion_time=timestamp(observed.now),
        outcome=ending.outcome,
        reason=ending.reason[:64],
        message=_with_remedy(ending.message, remedy) or None,
        charged=charged,
        failure=failure_class(ending.outcome, ending.reason),
        evidence=evidence(ending.outcome, observed.report_of(attempt), _all_pods(observed, attempt)),
        gpu_hours=uncounted or attempt.gpu_hours,
        nodes=_nodes(attempt.pods or [])[:MOST_NODES] or None,
        pods=None,
        leaving=attempt.pods,
        failed_node=_failed_node(attempt, ending),
        lost=None,
        lost_time=None,
        told_time=None,
        out_of_memory=None,
        ranks_out_of_memory=None,
        ended_pods=None,
        restarts=attempt.restarts.model_copy(update={"since": None}) if attempt.restarts is not None else None,
    )
    quiet = {"stale": False, "stale_time": None, "eta": None}
    progress = status.progress.model_copy(update=quiet) if status.progress else None
    usage = usage.model_copy(update={"gpu_hours": round(usage.gpu_hours + uncounted, 6)})
    counts = {
        "failed_starts": _failed_starts(status, attempt, ending),
        "attempts_without_progress": _without_progress(status, attempt, ending),
    }
    return status.model_copy(update={"usage": usage, "progress": progress, "dashboard": None, "adjusted": adjusted, **counts})


def _all_pods(observed: Observed, attempt: AttemptStatus) -> list[Pod]:
    """The pods of the attempt's RayCluster, and its submitters."""
    ray_job = attempt.ray_job
    if ray_job is None:
        return []
    return [*(observed.pods_of_cluster(ray_job.cluster) if ray_job.cluster else ()), *observed.submitters_of(ray_job.name)]


def _with_remedy(message: str, remedy: str) -> str:
    """The words of an ending, cut before what follows from it."""
    return f"{shortened(message, LONGEST_MESSAGE - len(remedy) - 2)}; {remedy}" if remedy else shortened(message, LONGEST_MESSAGE)


def _failed_starts(status: FineTuneJobStatus, attempt: AttemptStatus, ending: Ending) -> int:
    """How many attempts in a row never began, after this one. One that was preempted before it began says nothing of either kind."""
    if _is_failed_start(attempt, ending):
        return status.failed_starts + 1
    return 0 if attempt.running_time is not None or ending.outcome is AttemptOutcome.STOPPED else status.failed_starts


def _is_failed_start(attempt: AttemptStatus, ending: Ending) -> bool:
    deleted = ending.outcome is AttemptOutcome.DELETED and attempt.running_time is None
    return ending.outcome is AttemptOutcome.NOT_STARTED or deleted


def _without_progress(status: FineTuneJobStatus, attempt: AttemptStatus, ending: Ending) -> int:
    """How many attempts in a row others ended without a new checkpoint, after this one. Failures and failed starts are counted apart."""
    latest = status.checkpoints.latest if status.checkpoints else None
    if ending.outcome in _OF_A_PERSON or (latest is not None and latest.step > (attempt.first_step or 0)):
        return 0
    apart = _is_failed_start(attempt, ending) or ending.outcome in CHARGED
    return status.attempts_without_progress + (0 if apart else 1)


def _nodes(pods: Sequence[AttemptPod]) -> list[str]:
    """Where the pods are or were, each node once."""
    return list(dict.fromkeys(one.node for one in pods if one.node is not None))


def _failed_node(attempt: AttemptStatus, ending: Ending) -> str | None:
    """The node that the ending is laid to: the one that it names, or the only one with workers that went silently."""
    if ending.node is not None or ending.reason not in (Reason.WORKER_LOST, Reason.NO_PROGRESS):
        return ending.node
    nodes = _nodes([one for one in attempt.pods or () if one.gpus])
    return nodes[0] if len(nodes) == 1 else None


def _uncounted_gpu_hours(observed: Observed, attempt: AttemptStatus) -> float:
    """What an attempt held whose pods nobody saw, as while there was no operator: all of its GPUs, for as long as its driver ran."""
    return held_seconds(observed, attempt) * (attempt.gpus or 0) / 3600 if attempt.pods is None else 0.0


def _used(observed: Observed, usage: UsageStatus, attempt: AttemptStatus, charged: bool) -> UsageStatus:
    """What an attempt adds: the time for which all of its pods ran, its goodput, its failure."""
    held = held_seconds(observed, attempt)
    report = observed.report_of(attempt)
    goodput_seconds = usage.goodput_seconds + (min(report.goodput_seconds or 0.0, held) if report else 0.0)
    # A status that an older operator wrote has the share alone.
    before = usage.held_seconds or (usage.goodput_seconds / usage.goodput if usage.goodput else 0.0)
    all_held = before + held
    return UsageStatus(
        gpu_hours=usage.gpu_hours,
        evaluation_pods=usage.evaluation_pods,
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
