"""How attempts end, and what that costs. Pure.

In: an attempt, its RayJob, its driver's report and its pods. Out: an Ending, or None while it goes on. What others did
(preemption, lost nodes, deletion) and attempts that never began aren't charged; any other failure is. A worker that went away
without a word, and ranks that hung, are the machines' fault if the attempt had got as far as a checkpoint, and else perhaps the job's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from finetune_api.pod_result import EXIT_STOPPED, PodResult
from finetune_api.reasons import Reason
from finetune_api.report import FineTuneReportStatus, ReportOutcome
from finetune_api.status import AttemptOutcome, AttemptStatus
from finetune_api.times import is_ahead, moment, seconds_between
from finetune_operator import keys
from finetune_operator.losses import OF_LOST_NODES, out_of_memory, ranks_out_of_memory
from finetune_operator.observation import HEAD, RayJob
from finetune_operator.pods import Pod

CHARGED: Final = (AttemptOutcome.FAILED, AttemptOutcome.INVALID_INPUT)
# Reasons of a RayJob that KubeRay itself ended.
_BY_KUBERAY: Final = ("DeadlineExceeded", "PreRunningDeadlineExceeded", "SubmissionFailed")
# RayJob, report and pods come by three watches: how long the driver's last words may come after the RayJob's end.
LAST_WORDS_SECONDS: Final = 10.0
# How long a driver that says nothing is taken for one that trains, when its RayJob is gone and nobody deletes its pods.
SILENT_SECONDS: Final = 120.0
# How long a pod may be late with its end.
OVERDUE_SECONDS: Final = 60.0
# A node that vanishes is told of when its grace period is over (50 s by default in Kubernetes 1.34); its ranks' peers fail at once.
# Pods of nodes that are there are gone long before.
NODE_SECONDS: Final = 60.0
# What an attempt has after a loss, without a new step, to end by itself and tell how. Its driver hears of a dead peer at once, and of a
# node that vanished in about 25 s, which is before Kubernetes does.
LOST_SECONDS: Final = 60.0
# And while its driver says that workers start again in place: it waits 300 s for nodes, and Ray Train 600 s for their workers.
RESTART_SECONDS: Final = 1200.0
# How long the RayJob may call itself running after its driver told how it ended.
TOLD_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    outcome: AttemptOutcome
    reason: str
    message: str = ""
    # The one that it is laid to.
    node: str | None = None
    # The ranks ran out of memory: one said so itself, or the kernel ended its pod for it.
    out_of_memory: Literal["rank", "pod"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of an attempt. `rayjob` None: it was seen, and it is gone. `submitters` aren't the RayCluster's.

    `evicted`: why Kueue took it back.
    """

    attempt: AttemptStatus
    rayjob: RayJob | None
    report: FineTuneReportStatus | None
    pods: Sequence[Pod]
    now: datetime
    submitters: Sequence[Pod] = ()
    evicted: str | None = None


def ending(evidence: Evidence) -> Ending | None:
    """How the attempt ended; None while it hasn't, or while its last words may still come."""
    attempt, rayjob, report = evidence.attempt, evidence.rayjob, evidence.report
    if rayjob is None or rayjob.deleting:
        return _by_others(evidence, _gone(attempt))
    if _left_its_cluster(attempt, rayjob):
        return _by_others(evidence, _suspended(evidence))
    if rayjob.terminal:
        if _last_words_may_come(evidence):
            return None
        by_kuberay = _ended_by_kuberay(evidence)
        return _ended(evidence) if by_kuberay is None else _by_others(evidence, by_kuberay)
    if report is not None and report.outcome is ReportOutcome.STOPPED and attempt.stop_requested:
        return _stopped(attempt)
    return None


def _left_its_cluster(attempt: AttemptStatus, rayjob: RayJob) -> bool:
    """Whether the RayJob no longer has the RayCluster that the attempt was: an attempt is one RayCluster."""
    recorded = attempt.ray_job.cluster if attempt.ray_job else None
    if recorded is None or rayjob.terminal:
        return False
    return rayjob.deployment in ("Suspending", "Suspended") or rayjob.cluster not in ("", recorded)


def _by_others(evidence: Evidence, otherwise: Ending) -> Ending | None:
    """The ending of an attempt whose RayCluster others take away; None while its pods may still commit a checkpoint.

    The next attempt would take over the storage, and what isn't committed by then would be lost. A driver that fails while its
    pods go isn't charged for it.
    """
    said = _said(evidence)
    if said is not None:
        return said if said.outcome in (AttemptOutcome.FINISHED, AttemptOutcome.INVALID_INPUT) else otherwise
    return None if _may_commit(evidence) else otherwise


def _may_commit(evidence: Evidence) -> bool:
    """Whether the driver of an attempt that has lost its RayJob is at work. It lives in the head's pod.

    One that is being deleted ends with its grace period, unless something holds it on its node, and that of a lost node doesn't
    count. One that nobody deletes, since the RayJob was deleted without what it owns, counts as long as the driver reports.
    """
    heads = [pod for pod in evidence.pods if pod.labels.get(keys.NODE_TYPE_LABEL) == HEAD]
    alive = [pod for pod in heads if pod.phase == "Running" and not pod.is_unreachable and not _is_overdue(pod, evidence.now)]
    if evidence.report is None or not alive:
        return False
    if any(pod.deletion_time is not None for pod in alive):
        return True
    silent = seconds_between(evidence.report.reported_at, evidence.now)
    return silent is not None and silent < SILENT_SECONDS and not is_ahead(evidence.report.reported_at, evidence.now)


def _is_overdue(pod: Pod, now: datetime) -> bool:
    """Whether the pod should have ended a while ago; its deletionTimestamp is the end of its grace period."""
    late = seconds_between(pod.deletion_time, now)
    return late is not None and late >= OVERDUE_SECONDS


def _last_words_may_come(evidence: Evidence) -> bool:
    """Whether it may still be told why the RayJob ended: by the driver, or, of a failure that isn't its own, by the nodes."""
    report, rayjob = evidence.report, evidence.rayjob
    at = rayjob.ended if rayjob else None
    waited = seconds_between(at, evidence.now)
    if waited is None or is_ahead(at, evidence.now):
        return False
    if report is None or not report.is_over:
        return waited < LAST_WORDS_SECONDS
    failed = report.outcome is ReportOutcome.FAILED and not report.permanent and report.reason != Reason.WORKER_PREEMPTED
    remains = any(pod.phase == "Running" for pod in evidence.pods)
    return failed and remains and waited < NODE_SECONDS and _outside_cause(evidence) is None


def _ended_by_kuberay(evidence: Evidence) -> Ending | None:
    """The ending of an attempt whose RayJob KubeRay (1.6.2) ended itself, with its pods: the driver commits a checkpoint, as for others.

    Its `jobStatus` stays what it was then. The deadlines are those that the RayJob carries for when there is no operator. A submitter that
    a node took, or that failed under a driver that was at work, says nothing of the training.
    """
    attempt, rayjob = evidence.attempt, evidence.rayjob
    assert rayjob is not None
    if rayjob.driver_ended or rayjob.reason not in _BY_KUBERAY:
        return None
    if attempt.stop_requested is not None:
        return _stopped(attempt)
    if rayjob.reason == "DeadlineExceeded":
        told = "KubeRay ended it at the deadline that its RayJob was made with"
        return Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.DEADLINE_EXCEEDED, message=told)
    if rayjob.reason == "PreRunningDeadlineExceeded":
        told = "KubeRay gave it up, while there was no operator: not all of its pods ran"
        return Ending(outcome=AttemptOutcome.NOT_STARTED, reason=Reason.START_DEADLINE_EXCEEDED, message=told)
    cause = _disrupted(evidence.submitters)
    if _had_failed(evidence) or (cause is None and not _was_at_work(evidence)):
        return None
    why = cause.message if cause else f"the driver was at work; {rayjob.message or 'see the log of its pod'}"
    told = f"the pod that hands the driver to Ray is lost, and KubeRay ended the RayJob for it: {why}"
    return Ending(outcome=AttemptOutcome.PREEMPTED, reason=Reason.SUBMITTER_LOST, message=told)


def _had_failed(evidence: Evidence) -> bool:
    """Whether the driver told its failure before the RayJob's end, or a pod ran out of memory: then the pods went because of that."""
    report, rayjob = evidence.report, evidence.rayjob
    said = moment(_told(evidence)) if report is not None and report.outcome is ReportOutcome.FAILED else None
    ended = moment(rayjob.ended) if rayjob is not None else None
    return bool(_memory(evidence)) or (said is not None and said <= (ended or evidence.now))


def _was_at_work(evidence: Evidence) -> bool:
    """Whether the driver had spoken shortly before the RayJob's end, or since."""
    report, rayjob = evidence.report, evidence.rayjob
    ended = moment(rayjob.ended) if rayjob is not None else None
    silent = seconds_between(report.reported_at, ended or evidence.now) if report is not None else None
    return silent is not None and silent < SILENT_SECONDS


def _ended(evidence: Evidence) -> Ending:
    """The ending of an attempt whose RayJob has ended."""
    rayjob = evidence.rayjob
    assert rayjob is not None
    if (said := _said(evidence)) is not None:
        return said
    if rayjob.job_status == "SUCCEEDED":
        return Ending(outcome=AttemptOutcome.FINISHED, reason=Reason.FINISHED)
    if evidence.attempt.stop_requested:
        return _stopped(evidence.attempt)
    if (cause := _outside_cause(evidence)) is not None:
        return cause
    if rayjob.job_status == "STOPPED":
        return Ending(outcome=AttemptOutcome.PREEMPTED, reason=Reason.PREEMPTED, message="somebody stopped the Ray job")
    if words := _memory(evidence):
        return _out_of_memory(evidence, words)
    message = rayjob.message or f"the Ray job failed ({rayjob.reason or 'no reason given'}); see the head pod's log"
    return Ending(outcome=AttemptOutcome.FAILED, reason=Reason.TRAINING_FAILED, message=message)


def _said(evidence: Evidence) -> Ending | None:
    """What the driver itself said of its end, in the report or with its last breath."""
    report, result = evidence.report, _driver_result((*evidence.pods, *evidence.submitters))
    if report is not None and report.outcome is ReportOutcome.FINISHED:
        early = report.reason == Reason.STOPPED_EARLY
        told = (report.message or "") if early else ""
        return Ending(outcome=AttemptOutcome.FINISHED, reason=Reason.STOPPED_EARLY if early else Reason.FINISHED, message=told)
    stopped = report is not None and report.outcome is ReportOutcome.STOPPED
    if stopped or (result is not None and result.outcome == "Stopped"):
        if evidence.attempt.stop_requested:
            return _stopped(evidence.attempt)
        disrupted = _disrupted(evidence.pods)
        lost = evidence.attempt.lost
        told = "others stopped it, and it committed a checkpoint" + (f"; {lost}" if lost else "")
        return disrupted or Ending(outcome=AttemptOutcome.PREEMPTED, reason=Reason.PREEMPTED, message=told)
    if report is not None and report.outcome is ReportOutcome.FAILED:
        return _failure(evidence, report.permanent, report.reason, report.message)
    if result is not None and result.outcome == "Failed":
        return _failure(evidence, result.permanent, result.reason, result.message)
    return None


def _failure(evidence: Evidence, permanent: bool, reason: str | None, message: str | None) -> Ending:
    """A failure that the driver told. One that a lost node explains isn't the job's."""
    if permanent:
        return Ending(outcome=AttemptOutcome.INVALID_INPUT, reason=reason or Reason.TRAINING_FAILED, message=message or "")
    if (cause := _outside_cause(evidence)) is not None:
        return cause
    memory = _memory(evidence)
    told = "; ".join(filter(None, (message, memory)))
    if reason == Reason.WORKER_PREEMPTED:
        return Ending(outcome=AttemptOutcome.PREEMPTED, reason=reason, message=told)
    if memory:
        return _out_of_memory(evidence, told)
    if reason == Reason.OUT_OF_MEMORY:
        return Ending(outcome=AttemptOutcome.FAILED, reason=reason, message=told, out_of_memory="rank")
    if reason == Reason.FAULTY_NODE:
        return Ending(outcome=AttemptOutcome.NODE_LOST, reason=reason, message=told)
    if reason == Reason.NO_PROGRESS:
        return hung(evidence, told)
    if reason == Reason.WORKER_LOST and _has_committed(evidence.attempt, evidence.report):
        return Ending(outcome=AttemptOutcome.NODE_LOST, reason=reason, message=told)
    return Ending(outcome=AttemptOutcome.FAILED, reason=reason or Reason.TRAINING_FAILED, message=told)


def _out_of_memory(evidence: Evidence, message: str) -> Ending:
    """The ending of an attempt of whose pods the kernel ended one for its memory."""
    of_ranks = evidence.attempt.ranks_out_of_memory or ranks_out_of_memory(evidence.pods)
    return Ending(outcome=AttemptOutcome.FAILED, reason=Reason.OUT_OF_MEMORY, message=message, out_of_memory="pod" if of_ranks else None)


def _has_committed(attempt: AttemptStatus, report: FineTuneReportStatus | None) -> bool:
    """Whether the attempt has committed a checkpoint of its own."""
    return report is not None and report.checkpoint is not None and report.checkpoint.step > (attempt.first_step or 0)


def hung(evidence: Evidence, message: str) -> Ending:
    """The ending of an attempt in which nothing gets on. Charged, unless a loss explains it or it had committed a checkpoint."""
    outcome = AttemptOutcome.HUNG if _has_committed(evidence.attempt, evidence.report) else AttemptOutcome.FAILED
    return _outside_cause(evidence) or Ending(outcome=outcome, reason=Reason.NO_PROGRESS, message=message)


def overdue(evidence: Evidence) -> tuple[Ending | None, float | None]:
    """The ending of an attempt that ought to have ended by itself, after a loss or after its driver's last word; or when to look again.

    Its RayJob is said to run. Nobody looks at Ray for it, and a report that is renewed is no excuse: a driver can wait for what is lost.
    """
    attempt, report = evidence.attempt, evidence.report
    told = report is not None and report.is_over
    since_word = seconds_between(_told(evidence), evidence.now) if told else None
    if since_word is not None and since_word >= TOLD_SECONDS:
        return _said(evidence), None
    since_loss = seconds_between(attempt.lost_time, evidence.now) if attempt.lost is not None and not told else None
    allowed_loss = RESTART_SECONDS if _may_restart(evidence) else LOST_SECONDS
    if since_loss is not None and since_loss >= allowed_loss:
        return _stopped(attempt) if attempt.stop_requested else _lost(attempt), None
    # Workers of the same size would run out of memory again; where there is a remedy, it is the next attempt's.
    if attempt.restarts is not None and attempt.ranks_out_of_memory and not told:
        return _stopped(attempt) if attempt.stop_requested else _out_of_memory(evidence, _memory(evidence)), None
    waits = [allowed - since for allowed, since in ((TOLD_SECONDS, since_word), (allowed_loss, since_loss)) if since is not None]
    return None, min(waits, default=None)


def _may_restart(evidence: Evidence) -> bool:
    """Whether workers are about to start again in place. KubeRay replaces a pod that is gone at once, a silent node's minutes later."""
    restarts = evidence.attempt.restarts
    return restarts is not None and restarts.since is not None and not any(pod.is_unreachable for pod in evidence.pods)


def _told(evidence: Evidence) -> str | None:
    """When the driver told how it ended: first, for one that lives on may renew its report."""
    return evidence.attempt.told_time or (evidence.report.reported_at if evidence.report is not None else None)


def _memory(evidence: Evidence) -> str:
    """What is known of a pod of the attempt that ran out of memory; empty when none did."""
    return evidence.attempt.out_of_memory or out_of_memory(evidence.pods) or ""


def _lost(attempt: AttemptStatus) -> Ending:
    return Ending(outcome=AttemptOutcome.NODE_LOST, reason=Reason.NODE_LOST, message=attempt.lost or "", node=attempt.failed_node)


def _outside_cause(evidence: Evidence) -> Ending | None:
    """The ending of an attempt that lost a pod or a node, or of whose pods one was taken away by others."""
    is_lost = evidence.attempt.lost is not None and not _was_over(evidence)
    return _lost(evidence.attempt) if is_lost else _disrupted(evidence.pods)


def _was_over(evidence: Evidence) -> bool:
    """Whether the driver, or else its RayJob, had failed before a loss was seen: its pods went because of that."""
    report, rayjob = evidence.report, evidence.rayjob
    failed = report is not None and report.outcome is ReportOutcome.FAILED
    at = _told(evidence) if failed else rayjob.ended if rayjob is not None else None
    over, seen = moment(at), moment(evidence.attempt.lost_time)
    return over is not None and seen is not None and seen >= over


def _disrupted(pods: Sequence[Pod]) -> Ending | None:
    """The ending of an attempt of whose pods one was taken away by others, or whose node is lost."""
    for pod in pods:
        if pod.is_unreachable:
            told = _no_longer_answers(pod)
            return Ending(outcome=AttemptOutcome.NODE_LOST, reason=Reason.NODE_LOST, message=told, node=pod.node)
        if (found := pod.disruption) is not None:
            lost = found[0] in OF_LOST_NODES
            return Ending(
                outcome=AttemptOutcome.NODE_LOST if lost else AttemptOutcome.PREEMPTED,
                reason=Reason.NODE_LOST if lost else Reason.PREEMPTED,
                message=f"pod {pod.name}: {found[0]}: {found[1]}",
                node=pod.node if lost else None,
            )
    return None


def _no_longer_answers(pod: Pod) -> str:
    return f"node {pod.node}, on which pod {pod.name} is, no longer answers" if pod.node else "a node no longer answers"


def _driver_result(pods: Sequence[Pod]) -> PodResult | None:
    """What the head's Ray or a submitter said when it ended; the submitter has the driver's exit code."""
    for pod in pods:
        for container in (keys.HEAD_CONTAINER, keys.SUBMITTER_CONTAINER):
            found = pod.ended(container)
            if found is not None and found.result is not None:
                return found.result
            if found is not None and found.exit_code == EXIT_STOPPED and container == keys.SUBMITTER_CONTAINER:
                return PodResult(outcome="Stopped")
    return None


def _gone(attempt: AttemptStatus) -> Ending:
    """The RayJob was seen, and now it isn't there."""
    if attempt.stop_requested:
        return _stopped(attempt)
    told = "somebody deleted the RayJob; the next attempt goes on from the newest checkpoint"
    return Ending(outcome=AttemptOutcome.DELETED, reason=Reason.RAYJOB_DELETED, message=told)


def _suspended(evidence: Evidence) -> Ending:
    """Others suspended the RayJob, or have let it go on by now, in another RayCluster."""
    if evidence.attempt.stop_requested:
        return _stopped(evidence.attempt)
    why = f"taken back by Kueue: {evidence.evicted}" if evidence.evicted else "suspended by others, as Kueue does to take GPUs back"
    told = f"the RayJob was {why}; it goes on when they let it"
    return Ending(outcome=AttemptOutcome.PREEMPTED, reason=Reason.PREEMPTED, message=told)


def _stopped(attempt: AttemptStatus) -> Ending:
    told = f"asked to stop: {attempt.stop_requested}" if attempt.stop_requested else "stopped before it ran"
    return Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message=told)
