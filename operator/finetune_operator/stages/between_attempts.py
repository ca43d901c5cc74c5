"""Between two attempts: what is left of the last one, what the next one waits for, and when there is none. Pure.

In: the status, and RayJobs that KubeRay may still do something with. Out: another attempt's entry, the words for what it waits
for, or the job's failure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_api.times import seconds_between, timestamp
from finetune_operator.backing_off import next_start
from finetune_operator.observation import KubeRay, Observed, RayJob, is_running, last_attempt
from finetune_operator.stages import attempts, budget
from finetune_operator.stages.decision import Action, Delete, StageDecision, set_condition
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.pod_job import unfinished
from finetune_operator.stages.running import QUEUED_SECONDS, goes_on, in_vain, last_words, without_progress

# That KubeRay has come is noticed by itself; this is for what is noticed by nobody.
_KUBERAY_SECONDS: Final = 60.0
# RayJobs of ended attempts that are kept, for who looks up how they ended.
_KEPT_RAYJOBS: Final = 3
# A RayJob whose driver has ended is ended by KubeRay a second or two after its submitter's pod. Where that is on a lost node, KubeRay
# waits until the pod is evicted, which takes minutes.
_LINGERING_SECONDS: Final = 20.0
_WITHOUT_KUBERAY: Final = {
    KubeRay.ABSENT: (Reason.KUBERAY_ABSENT, "there is no RayJob in this cluster; install KubeRay 1.6 or newer, and the job starts"),
    KubeRay.FORBIDDEN: (
        Reason.KUBERAY_FORBIDDEN,
        "the operator may not list RayJobs; give its role the verbs get, list, watch, create and delete on rayjobs.ray.io",
    ),
}


def next_attempt(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """Begin an attempt, or say what it waits for."""
    if (failed := _failed(observed, status)) is not None:
        return failed
    unfinished = _unfinished_rayjobs(observed, status)
    if unfinished.others:
        deletions = tuple(Delete(kind="RayJob", name=r.name, uid=r.uid) for r in unfinished.others if not r.deleting)
        return _waits(observed, status, Reason.STOPPING, f"RayJob {unfinished.others[0].name} is being deleted").after(*deletions)
    if job_of(observed).spec.suspend:
        return _waits(observed, status, Reason.SUSPENDED, "the job is suspended")
    if observed.kuberay is not KubeRay.PRESENT:
        return without_kuberay(observed, status)
    if unfinished.queued is not None:
        return _readmitted(observed, status, unfinished.queued)
    return between_attempts(observed, status) if _wait_seconds(observed, status) else _entered(observed, status)


def _entered(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    status = attempts.entered(observed, status)
    told = "; ".join(filter(None, (f"attempt {status.attempt} begins", attempts.told_of_avoided(status.attempts[-1]))))
    return StageDecision(status=set_condition(observed, status, ConditionType.TRAINED, "False", Reason.STARTING, told))


def _readmitted(observed: Observed, status: FineTuneJobStatus, queued: RayJob) -> StageDecision:
    """A RayJob that others suspended: when they let it go on, its new RayCluster is another attempt."""
    former = status.attempts[-1].ray_job
    if queued.queued or not queued.cluster or (former is not None and queued.cluster == former.cluster):
        found = observed.held(queued)
        waits = _waits(observed, status, found.reason, found.words)
        return replace(waits, stalled=found.stalled, requeue_after_seconds=QUEUED_SECONDS)
    status = attempts.entered(observed, status, queued)
    return StageDecision(status=goes_on(observed, status, queued))


def _wait_seconds(observed: Observed, status: FineTuneJobStatus) -> float:
    """Seconds until the next attempt may begin."""
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid, now=observed.now)
    return 0.0 if start is None else max((start - observed.now).total_seconds(), 0.0)


def between_attempts(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """No attempt runs, and none begins now; what ended the last one is told."""
    if (failed := _failed(observed, status)) is not None:
        return failed
    last = status.attempts[-1] if status.attempts else None
    if last is not None and last.outcome is AttemptOutcome.FINISHED:  # it has just ended: the next stage begins with the next look
        told = f"attempt {last.number} finished"
        return StageDecision(status=set_condition(observed, status, ConditionType.TRAINED, "True", Reason.TRAINED, told))
    if last is None or last.outcome is AttemptOutcome.STOPPED:
        suspended = job_of(observed).spec.suspend
        return _waits(observed, status, Reason.SUSPENDED if suspended else Reason.WAITING, "the job is suspended" if suspended else "")
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid, now=observed.now)
    after = f"; the next begins after {timestamp(start)}" if start else ""
    told = f"attempt {last.number} ended: {last.outcome}" + (f" ({last.message})" if last.message else "")
    decision = _waits(observed, status, Reason.BACKING_OFF, told + after)
    waits = _wait_seconds(observed, status) or 0.1
    return replace(decision, stalled=in_vain(status), requeue_after_seconds=waits)


def _waits(observed: Observed, status: FineTuneJobStatus, reason: str, message: str) -> StageDecision:
    return StageDecision(status=set_condition(observed, status, ConditionType.TRAINED, "False", reason, message))


def without_kuberay(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    reason, message = _WITHOUT_KUBERAY[observed.kuberay]
    message = f"{message} ({observed.kuberay_message})" if observed.kuberay_message else message
    status = set_condition(observed, status, ConditionType.TRAINED, "False", reason, message)
    return StageDecision(status=status, stalled=(reason, message), requeue_after_seconds=_KUBERAY_SECONDS)


def _failed(observed: Observed, status: FineTuneJobStatus) -> StageDecision | None:
    """The end of the job, where the last attempt was one too many, can't go better, or used up the GPU hours."""
    last = last_attempt(status)
    if last is None or last.outcome is AttemptOutcome.FINISHED:
        return None
    found = (
        _one_too_many(observed, status, last)
        or _too_many_starts(observed, status)
        or _too_many_in_vain(observed, status)
        or budget.used_up(observed, status)
    )
    if found is None:
        return None
    return StageDecision(status=set_condition(observed, status, ConditionType.TRAINED, "False", *found), failed=found)


def _one_too_many(observed: Observed, status: FineTuneJobStatus, last: AttemptStatus) -> tuple[str, str] | None:
    """Reason and message of a failure that no attempt follows. A raised `retry` forgives what was before."""
    usage = status.usage or UsageStatus()
    charged = usage.charged_failures - usage.forgiven_failures
    allowed = job_of(observed).spec.failure_policy.max_failures
    if charged == 0:
        return None
    if last.outcome is AttemptOutcome.INVALID_INPUT:
        return last.reason or Reason.TRAINING_FAILED, last.message or "the driver refused its input"
    if _is_replayed(_charged(status.attempts)[-charged:]):
        told = (
            f"the loss was not finite at the same step in a second attempt, so that no machine is to blame: {last.message or last.reason}"
        )
        return Reason.NON_FINITE_LOSS, told
    if charged > allowed:
        told = f"{charged} failures, and failurePolicy.maxFailures is {allowed}; the last: {last.message or last.reason}"
        return Reason.TOO_MANY_FAILURES, told
    return None


def _charged(attempts: Sequence[AttemptStatus]) -> list[AttemptStatus | None]:
    """What was charged, in its order: ends of attempts, and None for each start of workers in place."""
    found: list[AttemptStatus | None] = []
    for one in attempts:
        found += [None] * (one.restarts.charged if one.restarts is not None else 0)
        found += [one] if one.charged else []
    return found


def _is_replayed(failures: Sequence[AttemptStatus | None]) -> bool:
    """Whether the last of the failures is a loss that was not finite, where it wasn't in one before.

    From the same checkpoint, an attempt does what the one before did. A bad GPU would have to err at the same step twice; data and
    learning rate do. So one more attempt is worth its while, and no third.
    """
    steps = [one.last_step or one.first_step or 0 for one in failures if one is not None and one.reason == Reason.NON_FINITE_LOSS]
    last = failures[-1] if failures else None
    return last is not None and last.reason == Reason.NON_FINITE_LOSS and steps[-1] in steps[:-1]


def _too_many_starts(observed: Observed, status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where one start more failed than may in a row."""
    count, allowed = status.failed_starts, job_of(observed).spec.failure_policy.max_failed_starts
    if count <= allowed:
        return None
    starts = f"{count} starts in a row failed" if count > 1 else "a start failed"
    told = f"{starts}, and failurePolicy.maxFailedStarts is {allowed}; the last: {last_words(status)}; then raise spec.retry"
    return Reason.TOO_MANY_FAILED_STARTS, told


def _too_many_in_vain(observed: Observed, status: FineTuneJobStatus) -> tuple[str, str] | None:
    """Reason and message, where others ended one attempt more than they may before anything of it was kept."""
    allowed = job_of(observed).spec.failure_policy.max_attempts_without_progress
    if status.attempts_without_progress <= allowed:
        return None
    told = (
        f"{without_progress(status)}, and failurePolicy.maxAttemptsWithoutProgress is {allowed}; the last: {last_words(status)}; "
        "find out who takes its GPUs, or let it save earlier (checkpoints.every); then raise spec.retry"
    )
    return Reason.TOO_MANY_ATTEMPTS_WITHOUT_PROGRESS, told


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unfinished:
    """RayJobs that KubeRay may still do something with. `queued`: the last attempt's, which Kueue suspended and will let go on."""

    queued: RayJob | None
    others: tuple[RayJob, ...]


def _unfinished_rayjobs(observed: Observed, status: FineTuneJobStatus) -> _Unfinished:
    """RayJobs between two attempts."""
    last = last_attempt(status)
    alive = [rayjob for rayjob in observed.rayjobs if not rayjob.terminal]
    queued = None
    suspended = observed.job is not None and observed.job.spec.suspend
    # A RayJob says how many failures its driver may have. One in which some were charged says too many.
    is_as_made = last is not None and not (last.restarts is not None and last.restarts.charged)
    if last is not None and last.outcome is AttemptOutcome.PREEMPTED and last.ray_job is not None and not suspended and is_as_made:
        # One that still has its RayCluster was not taken back: its driver has stopped, and KubeRay doesn't tell.
        left = (rayjob for rayjob in alive if rayjob.queued or rayjob.cluster != last.ray_job.cluster)
        queued = next((rayjob for rayjob in left if rayjob.uid == last.ray_job.uid and not rayjob.deleting), None)
    return _Unfinished(queued=queued, others=tuple(rayjob for rayjob in alive if rayjob is not queued))


def is_at_rest(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether no attempt, no RayJob, no Job and no pod holds anything."""
    alive = any(not rayjob.terminal for rayjob in observed.rayjobs)
    pods = any(not pod.has_ended for pod in observed.pods)
    return not (is_running(status) or alive or pods or unfinished(observed))


def delete_rayjobs_of_ended_attempts(observed: Observed, status: FineTuneJobStatus) -> tuple[Action, ...]:
    """Deletions of RayJobs of attempts that ended, where no attempt may begin: they would hold GPUs for as long as that lasts.

    A RayJob that Kueue holds back holds no GPU, and may be the next attempt.
    """
    last = last_attempt(status)
    if last is None or last.outcome in (None, AttemptOutcome.FINISHED):
        return ()
    queued = _unfinished_rayjobs(observed, status).queued
    return delete_stale_rayjobs(observed, but=queued if queued is not None and queued.queued else None)


def delete_old_rayjobs(observed: Observed) -> tuple[Action, ...]:
    """Deletions of RayJobs that have ended, all but the newest: a job that is preempted again and again would collect them."""
    ended = sorted((rayjob for rayjob in observed.rayjobs if rayjob.terminal), key=lambda rayjob: (rayjob.created or "", rayjob.name))
    return tuple(Delete(kind="RayJob", name=rayjob.name, uid=rayjob.uid) for rayjob in ended[:-_KEPT_RAYJOBS] if not rayjob.deleting)


def delete_lingering_rayjobs(observed: Observed, status: FineTuneJobStatus) -> tuple[tuple[Action, ...], float | None]:
    """Deletions of RayJobs of attempts that ended a while ago, which still hold what they held; or when to look again."""
    ended = {one.ray_job.uid: one.completion_time for one in status.attempts if one.ray_job is not None and one.outcome is not None}
    since = [(rayjob, seconds_between(ended.get(rayjob.uid), observed.now)) for rayjob in observed.rayjobs if rayjob.lingers]
    late = [rayjob for rayjob, seconds in since if seconds is not None and seconds >= _LINGERING_SECONDS]
    waits = [_LINGERING_SECONDS - seconds for rayjob, seconds in since if seconds is not None and rayjob not in late]
    return tuple(Delete(kind="RayJob", name=rayjob.name, uid=rayjob.uid) for rayjob in late), min(waits, default=None)


def delete_stale_rayjobs(observed: Observed, but: RayJob | None = None) -> tuple[Action, ...]:
    """Deletions of all RayJobs that KubeRay may still do something with, `but` that of the attempt that runs or waits in a queue."""
    alive = [rayjob for rayjob in observed.rayjobs if not rayjob.terminal and not rayjob.deleting and rayjob != but]
    return tuple(Delete(kind="RayJob", name=rayjob.name, uid=rayjob.uid) for rayjob in alive)
