"""An attempt that runs: since when, how many of its pods, what it waits for, and when it has to end. Pure.

In: the attempt, its RayJob, its driver's report and its pods. Out: the status with what is seen of it, the request to its driver
to stop, and its ending. Deadlines are here; how it ended otherwise is judged in `failures`.
"""

from typing import Final

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.report import ReportOutcome
from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus
from finetune_api.times import is_ahead, moment, seconds_between, timestamp
from finetune_operator.failures import Ending, Evidence, ending, hung, overdue
from finetune_operator.losses import ended_at_start, noted
from finetune_operator.observation import Observed, RayJob
from finetune_operator.pods import Pod
from finetune_operator.resources.report import report as report_manifest
from finetune_operator.settings import Settings
from finetune_operator.stages import attempts, budget
from finetune_operator.stages.decision import Action, AskToStop, Create, WithdrawStop, set_condition, sooner
from finetune_operator.stages.planning import job_of, short_grace
from finetune_operator.stages.resizing import TRY_START_SECONDS, grown, growth_due, growth_seconds, is_try
from finetune_operator.usage import gpus, joined
from finetune_operator.waiting import needs_person, waits_for

# What a pod's end takes besides the checkpoint that it may commit.
_STOP_MARGIN_SECONDS: Final = 60.0
# What others say of a RayJob that they hold back is asked for, not watched.
QUEUED_SECONDS: Final = 60.0
_STOP_FOR_SUSPENSION: Final = "Suspended"
_STOP_TO_GROW: Final = "Growing"
_WHY_STOPPED: Final = {
    _STOP_TO_GROW: ": all of workers.nodes are tried again",
    str(Reason.BUDGET_EXCEEDED): ": budget.gpuHours is used up",
}
# So many starts that failed in a row are for a person to see.
_STALLED_STARTS: Final = 3
# And so many that others ended before anything was kept.
_STALLED_ATTEMPTS: Final = 10
# KubeRay replaces a pod whose Ray ended, for ever: so many of an attempt are for a person to see, and so many end it.
_STALLED_PODS: Final = 2
_MOST_ENDED_PODS: Final = 5


def _pods(observed: Observed, attempt: AttemptStatus) -> list[Pod]:
    """Pods of the attempt's RayCluster."""
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    return observed.pods_of_cluster(cluster) if cluster else []


def _submitters(observed: Observed, attempt: AttemptStatus) -> list[Pod]:
    """Pods that hand the driver to Ray, from the Job that KubeRay makes under the RayJob's name.

    Those that are being deleted are of an attempt before, from which Kueue took the RayJob's RayCluster.
    """
    name = attempt.ray_job.name if attempt.ray_job else None
    return [pod for pod in observed.submitters_of(name) if pod.deletion_time is None] if name else []


def _is_submitted(observed: Observed, attempt: AttemptStatus, rayjob: RayJob) -> bool:
    """Whether Ray has the driver: its job server says so, or the driver itself reports."""
    return bool(rayjob.job_status) or observed.report_of(attempt) is not None


def running_time(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None) -> FineTuneJobStatus:
    """The status with when the attempt was admitted, and when all of its pods first ran.

    While others hold the RayJob back no time runs: it begins anew when they let it go, and when the clock was set back. Of an
    attempt that ended before anybody saw its pods, the RayJob says when they ran.
    """
    attempt = status.attempts[-1]
    if attempt.running_time is None and rayjob is not None and rayjob.driver_ended and (started := moment(rayjob.started)) is not None:
        since = max(filter(None, (started, moment(attempt.start_time))))
        return attempts.with_last(status, start_time=attempt.start_time or timestamp(since), running_time=timestamp(since))
    if rayjob is not None and rayjob.queued:
        return attempts.with_last(status, start_time=None) if attempt.running_time is None else status
    set_back = attempt.running_time is None and is_ahead(attempt.start_time, observed.now)
    if attempt.start_time is None or set_back:
        status = attempts.with_last(status, start_time=timestamp(observed.now))
    running = [pod for pod in _pods(observed, attempt) if pod.phase == "Running"]
    if attempt.running_time is None and len(running) >= _expected_pods(observed, attempt):
        status = attempts.with_last(status, running_time=timestamp(observed.now))
    return status


def followed(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None) -> FineTuneJobStatus:
    """The status with when the attempt ran, which pods it has, and what of them is lost."""
    status = _with_its_size(observed, running_time(observed, status, rayjob))
    attempt, pods = status.attempts[-1], _pods(observed, status.attempts[-1])
    submitted = rayjob is not None and _is_submitted(observed, attempt, rayjob)
    # That all run is seen once before Ray may miss one.
    ran_before = observed.status.attempts[-1].running_time is not None
    # Those that run when workers have started again are Ray's from then on, and nothing else is lost.
    knows_its_pods = submitted and ran_before and _starts(attempt) == _starts(observed.status.attempts[-1])
    status = attempts.with_last(status, pods=joined(attempt, pods, submitted=knows_its_pods))
    attempt = status.attempts[-1]
    if submitted and attempt.running_time is not None:
        status = grown(observed, status.model_copy(update={"failed_starts": 0}))
        status = attempts.with_last(status, ended_pods=None)
    elif rayjob is not None and not submitted:
        status = attempts.with_last(status, ended_pods=ended_at_start(attempt.ended_pods, pods))
    status = attempts.with_last(status, **noted(observed, attempt, rayjob, pods, submitted=submitted))
    return attempts.with_last(status, told_time=_told_time(observed, attempt))


def _starts(attempt: AttemptStatus) -> int:
    """How often workers of the attempt started again in place."""
    return attempt.restarts.count if attempt.restarts is not None else 0


def _told_time(observed: Observed, attempt: AttemptStatus) -> str | None:
    """When the driver first told how it ended: a driver that lives on may say it again and again."""
    known, report = attempt.told_time, observed.report_of(attempt)
    if (known is not None and not is_ahead(known, observed.now)) or report is None or not report.is_over:
        return known
    said = None if is_ahead(report.reported_at, observed.now) else moment(report.reported_at)
    return timestamp(min(said or observed.now, observed.now))


def _with_its_size(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status of an attempt that an operator of before entered, with its pods and GPUs."""
    attempt, job = status.attempts[-1], job_of(observed)
    if attempt.worker_pods is not None:
        return status
    held = gpus(job) if attempt.gpus is None else attempt.gpus
    return attempts.with_last(status, worker_pods=job.spec.workers.nodes, gpus=held)


def _expected_pods(observed: Observed, attempt: AttemptStatus) -> int:
    """The workers that the attempt began with, and the head."""
    return (attempt.worker_pods or job_of(observed).spec.workers.nodes) + 1


def ending_of(
    observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None, settings: Settings
) -> tuple[Ending | None, float | None]:
    """How the attempt ended, or when to look again."""
    attempt = status.attempts[-1]
    pods = _pods(observed, attempt)
    report = observed.report_of(attempt)
    submitters = _submitters(observed, attempt)
    evicted = observed.held(rayjob).evicted if rayjob is not None and rayjob.queued else None
    evidence = Evidence(attempt=attempt, rayjob=rayjob, report=report, pods=pods, submitters=submitters, now=observed.now, evicted=evicted)
    found = ending(evidence)
    if found is not None:
        return found, None
    if rayjob is None or rayjob.deleting or rayjob.terminal:  # a checkpoint or its last words are awaited
        return None, 5.0
    late, look_again = overdue(evidence)
    if late is not None or (late := _silent_driver(status, evidence)) is not None:
        return late, None
    if attempt.stop_requested is not None:
        return _stop_deadline(observed, attempt, report is not None, settings), look_again
    late, waits = _start_deadline(observed, status, rayjob, pods)
    return late, sooner(waits, look_again)


def _silent_driver(status: FineTuneJobStatus, evidence: Evidence) -> Ending | None:
    """The ending of an attempt whose driver has said nothing for long, while KubeRay and Ray say that it runs.

    A driver that never reported can't reach the API server, and trains all the same. One that did renews its report every minute; its
    silence counts from when the operator noticed it, so that an outage of the API server ends nothing.
    """
    report, progress = evidence.report, status.progress
    if evidence.attempt.running_time is None or report is None or report.outcome is not ReportOutcome.RUNNING:
        return None
    silent = seconds_between(progress.stale_time, evidence.now) if progress is not None and progress.stale else None
    if silent is None or silent < attempts.SILENT_SECONDS:
        return None
    return hung(evidence, f"its driver has reported nothing since {report.reported_at}, while Ray and KubeRay say that it runs")


def _stop_deadline(observed: Observed, attempt: AttemptStatus, has_reported: bool, settings: Settings) -> Ending | None:
    """An attempt that was asked to stop ends when it has had its time, and at once when there is nothing to save."""
    if attempt.running_time is None and not has_reported:
        return Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message="stopped before all of its pods ran")
    waited = seconds_between(attempt.stop_requested_time, observed.now)
    if waited is not None and waited < _stop_seconds(settings):
        return None
    told = f"asked to stop, and hadn't after {_stop_seconds(settings):.0f} s; its newest checkpoint counts"
    return Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message=told)


def _stop_seconds(settings: Settings) -> float:
    return settings.stop_seconds + _STOP_MARGIN_SECONDS


def _start_deadline(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob, pods: list[Pod]) -> tuple[Ending | None, float | None]:
    """All or nothing: pods that wait longer than startDeadlineSeconds give back what the others hold."""
    attempt, trying = status.attempts[-1], is_try(job_of(observed), status)
    pods_wait_since = _waiting_since(attempt, pods)
    since = pods_wait_since or (None if _is_submitted(observed, attempt, rayjob) else attempt.running_time)
    waited = seconds_between(since, observed.now)
    if rayjob.queued and trying:  # a job that could go on waits in no queue
        waited = seconds_between(rayjob.created, observed.now)
    elif rayjob.queued:
        return None, QUEUED_SECONDS
    if waited is None:
        return None, None
    allowed = job_of(observed).spec.workers.start_deadline_seconds
    allowed = min(allowed, TRY_START_SECONDS) if trying else allowed
    outcome, reason = AttemptOutcome.NOT_STARTED, Reason.START_DEADLINE_EXCEEDED
    ended = attempt.ended_pods
    if ended is not None and ended.count >= _MOST_ENDED_PODS:
        told = f"it began {ended.count} times in vain; the last: {ended.message}"
        return Ending(outcome=outcome, reason=reason, message=told, node=_unfit_node(pods)), None
    if waited < allowed:
        return None, allowed - waited
    words = ended.message if ended else waits_for([*pods, *_submitters(observed, attempt)])
    if pods_wait_since is not None:
        running = sum(pod.phase == "Running" for pod in pods)
        words = words or f"see `kubectl describe rayjob {rayjob.name}`"
        bound = "a try of all of workers.nodes" if trying else "workers.startDeadlineSeconds"
        told = f"{running} of {_expected_pods(observed, attempt)} pods ran after {allowed} s ({bound}): {words}"
    else:
        words = words or f"see `kubectl describe job {rayjob.name}`"
        told = f"all pods ran, and Ray had no driver after {allowed} s (workers.startDeadlineSeconds): {words}"
    return Ending(outcome=outcome, reason=reason, message=told, node=_unfit_node(pods)), None


def _unfit_node(pods: list[Pod]) -> str | None:
    """The node on which pods don't come up, if it is one only: what holds everywhere, as a wrong image, is no node's fault."""
    nodes = {pod.node for pod in pods if pod.node is not None and pod.phase == "Pending"}
    return nodes.pop() if len(nodes) == 1 else None


def _waiting_since(attempt: AttemptStatus, pods: list[Pod]) -> str | None:
    """Since when pods are missing; None when none is. A pod that replaces one that ran counts from its own beginning."""
    if attempt.running_time is None:
        return attempt.start_time
    pending = [pod.created for pod in pods if pod.phase == "Pending" and not pod.is_gone]
    return min(filter(None, pending), default=None)


def stop_asked(
    observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None, settings: Settings
) -> tuple[FineTuneJobStatus, tuple[Action, ...], float | None]:
    """Ask the driver to stop while there is a reason to, and withdraw that when there no longer is; and when to look again.

    One that has ended can't be asked: why it ended was settled before.
    """
    if rayjob is not None and rayjob.terminal:
        return status, (), None
    attempt, asked = status.attempts[-1], observed.report.spec.stop if observed.report else None
    reason = _reason_to_stop(observed, status)
    made: tuple[Action, ...] = (
        () if observed.report or rayjob is None else (Create(manifest=report_manifest(job_of(observed), observed.owner)),)
    )
    look_again = sooner(budget.seconds_left(observed, status), growth_seconds(observed, status))
    if reason is None:
        withdraw: tuple[Action, ...] = (WithdrawStop(),) if asked is not None else ()
        if attempt.stop_requested is not None:
            status = attempts.with_last(status, stop_requested=None, stop_requested_time=None)
        return status, (*made, *withdraw), look_again
    if attempt.stop_requested is None or is_ahead(attempt.stop_requested_time, observed.now):
        status = attempts.with_last(status, stop_requested=attempt.stop_requested or reason, stop_requested_time=timestamp(observed.now))
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    if cluster is None or rayjob is None:
        return status, (), None
    waited = seconds_between(status.attempts[-1].stop_requested_time, observed.now) or 0.0
    ask: tuple[Action, ...] = ()
    if observed.report is not None and not (asked is not None and asked.cluster == cluster):
        ask = (AskToStop(cluster=cluster, reason=reason),)
    return status, (*made, *ask), max(_stop_seconds(settings) - waited, 1.0)


def _reason_to_stop(observed: Observed, status: FineTuneJobStatus) -> str | None:
    """Why the attempt should commit a checkpoint and stop."""
    if job_of(observed).spec.suspend:
        return _STOP_FOR_SUSPENSION
    used_up = budget.used_up(observed, status)
    if used_up:
        return str(used_up[0])
    return _STOP_TO_GROW if growth_due(observed, status) else None


def goes_on(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None, settings: Settings | None = None) -> FineTuneJobStatus:
    """The condition of an attempt that goes on. `settings`: they say how long a pod has for a checkpoint."""
    attempt = status.attempts[-1]
    name = f"attempt {attempt.number}"
    if attempt.stop_requested is not None:
        why = _WHY_STOPPED.get(attempt.stop_requested, "")
        reason, message = Reason.STOPPING, f"{name} was asked to commit a checkpoint and stop{why}"
    elif rayjob is None or rayjob.deleting:
        reason, message = Reason.STOPPING, f"{name}: somebody deleted its RayJob; its pods may still commit a checkpoint"
    elif rayjob.queued:
        found = observed.held(rayjob)
        reason, message = found.reason, f"{name}: {found.words}"
    elif attempt.running_time is None:
        pods = _pods(observed, attempt)
        running = sum(pod.phase == "Running" for pod in pods)
        ended = attempt.ended_pods
        words = ended.message if ended else waits_for([*pods, *_submitters(observed, attempt)])
        told = "; ".join(filter(None, (attempts.told_of_avoided(attempt), words)))
        reason, message = (
            Reason.STARTING,
            f"{name}: {running} of {_expected_pods(observed, attempt)} pods run" + (f"; {told}" if told else ""),
        )
    elif not _is_submitted(observed, attempt, rayjob):
        words = waits_for([*_pods(observed, attempt), *_submitters(observed, attempt)])
        reason, message = Reason.STARTING, f"{name}: all pods run, Ray has no driver yet" + (f"; {words}" if words else "")
    else:
        words = (f", but {attempt.lost}" if attempt.lost else "") + (_short_grace(status, settings) if settings else "")
        reason, message = Reason.TRAINING, f"{name} runs{_again(attempt)}{words}"
    return set_condition(observed, status, ConditionType.TRAINED, "False", reason, message)


def _again(attempt: AttemptStatus) -> str:
    """That workers of the attempt start again in place, or did; empty where they never did."""
    found = attempt.restarts
    if found is None:
        return ""
    if found.since is not None:
        return f"; its workers start again in place: {found.message}"
    times = "once" if found.count == 1 else f"{found.count} times"
    return f"; its workers started again in place {times}, the last time since {found.message}" if found.count else ""


def _short_grace(status: FineTuneJobStatus, settings: Settings) -> str:
    """That a pod which is to go has less time than the newest checkpoint took; empty where it has enough."""
    latest = status.checkpoints.latest if status.checkpoints else None
    if latest is None or latest.seconds is None or latest.seconds <= settings.stop_seconds:
        return ""
    return f"; {short_grace(latest.seconds, 'its newest checkpoint took', settings)}"


def stalled(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None) -> tuple[tuple[str, str] | None, float | None]:
    """Reason and message of what keeps an attempt from starting that only a person can mend, or when to look again."""
    attempt = status.attempts[-1]
    if rayjob is not None and rayjob.queued:
        return observed.held(rayjob).stalled, None
    if attempt.stop_requested is not None or rayjob is None or rayjob.deleting:
        return None, None
    if attempt.running_time is not None and _is_submitted(observed, attempt, rayjob):
        return None, None
    if attempt.ended_pods is not None and attempt.ended_pods.count >= _STALLED_PODS:
        return (Reason.PODS_WAIT, attempt.ended_pods.message), None
    words, waits = needs_person([*_pods(observed, attempt), *_submitters(observed, attempt)], observed.now)
    return (Reason.PODS_WAIT, words) if words else in_vain(status), waits


def in_vain(status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where starts have failed, or attempts got nowhere, again and again."""
    if status.failed_starts >= _STALLED_STARTS:
        return Reason.START_DEADLINE_EXCEEDED, f"{status.failed_starts} starts in a row failed; the last: {last_words(status)}"
    if status.attempts_without_progress >= _STALLED_ATTEMPTS:
        return Reason.NO_PROGRESS, f"{without_progress(status)}; the last: {last_words(status)}"
    return None


def without_progress(status: FineTuneJobStatus) -> str:
    """`12 attempts in a row ended without a new checkpoint`"""
    count = status.attempts_without_progress
    return f"{count} attempts in a row ended without a new checkpoint" if count > 1 else "an attempt ended without a new checkpoint"


def last_words(status: FineTuneJobStatus) -> str:
    """Why the newest attempt that ended did."""
    return next((one.message for one in reversed(status.attempts) if one.outcome is not None and one.message), "nothing is known of it")
