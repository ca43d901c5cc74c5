"""Between two attempts: what is left of the last one, what the next one waits for, and when there is none. Pure.

In: the status, and RayJobs that KubeRay may still do something with. Out: another attempt's entry, the words for what it waits
for, or the job's failure.
"""

from dataclasses import dataclass, replace
from typing import Final

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_api.times import timestamp
from finetune_operator import keys
from finetune_operator.failures import next_start
from finetune_operator.observation import KubeRay, Observed, RayJob, is_running, last_attempt, read_rayjob
from finetune_operator.stages import attempts, budget
from finetune_operator.stages.decision import Action, Delete, StageDecision, observe
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.running import goes_on
from finetune_operator.waiting import phase

# That KubeRay has come is noticed by itself; this is for what is noticed by nobody.
_KUBERAY_SECONDS: Final = 60.0
_WITHOUT_KUBERAY: Final = {
    KubeRay.ABSENT: (Reason.KUBERAY_ABSENT, "there is no RayJob in this cluster; install KubeRay 1.6 or newer, and the job starts"),
    KubeRay.FORBIDDEN: (
        Reason.KUBERAY_FORBIDDEN,
        "the operator may not list RayJobs; give its role the verbs get, list, watch, create and delete on rayjobs.ray.io",
    ),
}


def next_attempt(observed: Observed, status: FineTuneJobStatus, *, may_start: bool) -> StageDecision:
    """Begin an attempt, or say what it waits for."""
    if (failed := _failed(observed, status)) is not None:
        return failed
    left = _left(observed, status)
    if left.others:
        deletions = tuple(Delete(kind="RayJob", name=r.name, uid=r.uid) for r in left.others if not r.deleting)
        return _waits(observed, status, Reason.STOPPING, f"RayJob {left.others[0].name} is being deleted").after(*deletions)
    if job_of(observed).spec.suspend:
        return _waits(observed, status, Reason.SUSPENDED, "the job is suspended")
    if observed.kuberay is not KubeRay.PRESENT:
        return without_kuberay(observed, status)
    if left.queued is not None:
        return _readmitted(observed, status, left.queued)
    return resting(observed, status) if not may_start or _wait_seconds(observed, status) else _entered(observed, status)


def _entered(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    status = attempts.entered(observed, status)
    told = f"attempt {status.attempt} begins"
    return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "False", Reason.STARTING, told))


def _readmitted(observed: Observed, status: FineTuneJobStatus, queued: RayJob) -> StageDecision:
    """A RayJob that others suspended: when they let it go on, its new RayCluster is another attempt."""
    former = status.attempts[-1].ray_job
    if queued.queued or not queued.cluster or (former is not None and queued.cluster == former.cluster):
        told = f"RayJob {queued.name} is suspended by others, as Kueue does until there is quota"
        return _waits(observed, status, Reason.QUEUED, told)
    status = attempts.entered(observed, status, queued)
    return StageDecision(status=goes_on(observed, status, queued))


def _wait_seconds(observed: Observed, status: FineTuneJobStatus) -> float:
    """Seconds until the next attempt may begin."""
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid, now=observed.now)
    return 0.0 if start is None else max((start - observed.now).total_seconds(), 0.0)


def resting(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """No attempt runs, and none begins now; what ended the last one is told."""
    if (failed := _failed(observed, status)) is not None:
        return failed
    last = status.attempts[-1] if status.attempts else None
    if last is not None and last.outcome is AttemptOutcome.FINISHED:  # it has just ended: the next stage begins with the next look
        told = f"attempt {last.number} finished"
        return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "True", Reason.TRAINED, told), done=True)
    if last is None or last.outcome is AttemptOutcome.STOPPED:
        suspended = job_of(observed).spec.suspend
        return _waits(observed, status, Reason.SUSPENDED if suspended else Reason.WAITING, "the job is suspended" if suspended else "")
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid, now=observed.now)
    after = f"; the next begins after {timestamp(start)}" if start else ""
    told = f"attempt {last.number} ended: {last.outcome}" + (f" ({last.message})" if last.message else "")
    decision = _waits(observed, status, Reason.BACKING_OFF, told + after)
    return replace(decision, requeue_after_seconds=_wait_seconds(observed, status) or 0.1)


def _waits(observed: Observed, status: FineTuneJobStatus, reason: str, message: str) -> StageDecision:
    return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "False", reason, message))


def without_kuberay(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    reason, message = _WITHOUT_KUBERAY[observed.kuberay]
    message = f"{message} ({observed.kuberay_message})" if observed.kuberay_message else message
    status = observe(observed, status, ConditionType.TRAINED, "False", reason, message)
    return StageDecision(status=status, stalled=(reason, message), requeue_after_seconds=_KUBERAY_SECONDS)


def _failed(observed: Observed, status: FineTuneJobStatus) -> StageDecision | None:
    """The end of the job, where the last attempt was one too many, can't go better, or used up the GPU hours."""
    last = last_attempt(status)
    if last is None or last.outcome is AttemptOutcome.FINISHED:
        return None
    found = _one_too_many(observed, status, last) or budget.used_up(observed, status)
    if found is None:
        return None
    return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "False", *found), failed=found)


def _one_too_many(observed: Observed, status: FineTuneJobStatus, last: AttemptStatus) -> tuple[str, str] | None:
    """Reason and message of a failure that no attempt follows. A raised `retry` forgives what was before."""
    usage = status.usage or UsageStatus()
    charged = usage.charged_failures - usage.forgiven_failures
    allowed = job_of(observed).spec.failure_policy.max_failures
    if charged == 0:
        return None
    if last.outcome is AttemptOutcome.INVALID_INPUT:
        return last.reason or Reason.TRAINING_FAILED, last.message or "the driver refused its input"
    if charged > allowed:
        told = f"{charged} failures, and failurePolicy.maxFailures is {allowed}; the last: {last.message or last.reason}"
        return Reason.TOO_MANY_FAILURES, told
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """RayJobs of former attempts that KubeRay may still do something with. `queued`: one that others suspended, and that goes on."""

    queued: RayJob | None
    others: tuple[RayJob, ...]


def _left(observed: Observed, status: FineTuneJobStatus) -> _Left:
    last = last_attempt(status)
    alive = [rayjob for rayjob in map(read_rayjob, observed.rayjobs) if not rayjob.terminal]
    queued = None
    suspended = observed.job is not None and observed.job.spec.suspend
    if last is not None and last.outcome is AttemptOutcome.PREEMPTED and last.ray_job is not None and not suspended:
        queued = next((rayjob for rayjob in alive if rayjob.uid == last.ray_job.uid and not rayjob.deleting), None)
    return _Left(queued=queued, others=tuple(rayjob for rayjob in alive if rayjob is not queued))


def is_at_rest(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether no attempt, no RayJob and no training pod holds anything."""
    alive = any(not read_rayjob(rayjob).terminal for rayjob in observed.rayjobs)
    pods = any(phase(pod) not in ("Succeeded", "Failed") for pod in observed.pods_of(keys.STAGE_LABEL, keys.TRAINING))
    return not (is_running(status) or alive or pods)


def abandoned(observed: Observed, status: FineTuneJobStatus) -> tuple[Action, ...]:
    """Deletions of what ended attempts left, where none may begin: it would hold GPUs for as long as that lasts.

    What others hold back holds none, and may be the next attempt.
    """
    last = last_attempt(status)
    if last is None or last.outcome in (None, AttemptOutcome.FINISHED):
        return ()
    queued = _left(observed, status).queued
    return leftovers(observed, but=queued if queued is not None and queued.queued else None)


def leftovers(observed: Observed, but: RayJob | None = None) -> tuple[Action, ...]:
    """Deletions of RayJobs that KubeRay may still do something with, all `but` one."""
    alive = [rayjob for rayjob in map(read_rayjob, observed.rayjobs) if not rayjob.terminal and not rayjob.deleting and rayjob != but]
    return tuple(Delete(kind="RayJob", name=rayjob.name, uid=rayjob.uid) for rayjob in alive)
