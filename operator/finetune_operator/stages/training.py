"""Training: attempts, one after another, each one RayCluster, until one finishes.

A RayJob is made once and never applied again, and only for an attempt that the status has entered. Nothing of an attempt is
left to the next: it begins when the RayJob before it has ended or is gone, from the newest checkpoint in storage. How an
attempt ended is judged in `failures`, the record is kept in `attempts`.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, AttemptStatus, FineTuneJobStatus, UsageStatus
from finetune_api.times import seconds_between, timestamp
from finetune_operator import keys
from finetune_operator.failures import Ending, Evidence, ending, next_start
from finetune_operator.observation import CLUSTER_LABEL, KubeRay, Observed, RayJob, is_running, last_attempt, read_rayjob
from finetune_operator.resources.access import role, role_binding, service_account
from finetune_operator.resources.rayjob import rayjob as rayjob_manifest
from finetune_operator.resources.report import report as report_manifest
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.settings import Settings
from finetune_operator.stages import attempts
from finetune_operator.stages.decision import Action, AskToStop, Create, Delete, StageDecision, WithdrawStop, observe, sooner
from finetune_operator.stages.planning import job_of
from finetune_operator.waiting import is_gone, phase, waits_for

Json = dict[str, Any]

# What a pod's end takes besides the checkpoint that it may commit.
_STOP_MARGIN_SECONDS: Final = 60.0
_STOP_FOR_SUSPENSION: Final = "Suspended"

_WITHOUT_KUBERAY: Final = {
    KubeRay.ABSENT: (Reason.KUBERAY_ABSENT, "there is no RayJob in this cluster; install KubeRay 1.6 or newer, and the job starts"),
    KubeRay.FORBIDDEN: (
        Reason.KUBERAY_FORBIDDEN,
        "the operator may not list RayJobs; give its role the verbs get, list, watch, create and delete on rayjobs.ray.io",
    ),
    KubeRay.TOO_OLD: (Reason.KUBERAY_TOO_OLD, "KubeRay is too old; upgrade it and its CRDs to 1.6 or newer"),
}


def training(observed: Observed, status: FineTuneJobStatus, settings: Settings, *, may_start: bool) -> StageDecision:
    """Follow the attempt that runs, or begin the next one."""
    last = last_attempt(status)
    if last is not None and last.outcome is AttemptOutcome.FINISHED:
        told = f"attempt {last.number} finished" + (f" at step {last.last_step}" if last.last_step is not None else "")
        return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "True", Reason.TRAINED, told), done=True)
    if is_running(status):
        return _followed(observed, status, settings)
    return _next(observed, status, may_start=may_start)


# ---- an attempt that runs


def _followed(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Look at the attempt's RayJob; make it, if the attempt was entered and nothing more."""
    attempt = status.attempts[-1]
    rayjob = observed.rayjob(attempt.ray_job.name if attempt.ray_job else keys.rayjob_name(observed.owner.name, attempt.number))
    if attempt.ray_job is None and rayjob is None:
        return _begun(observed, status, settings)
    if observed.kuberay is not KubeRay.PRESENT:  # then nothing is known of any RayJob
        return _without_kuberay(observed, status)
    if rayjob is not None and attempt.ray_job is not None and rayjob.uid != attempt.ray_job.uid:
        rayjob = None
    if rayjob is not None:
        status = attempts.recorded(status, rayjob)
    status, actions, waits = _stop_asked(observed, attempts.reported(observed, status), rayjob, settings)
    status, stale_waits = attempts.staleness(observed, _running_time(observed, status, rayjob))
    found, start_waits = _ending(observed, status, rayjob, settings)
    if found is not None:
        # What is left of it is deleted once its ending is recorded, so that a crash in between changes no outcome.
        return _resting(observed, attempts.ended(observed, status, found))
    # One RayJob at a time: another one was made for an attempt that had ended already.
    actions += leftovers(observed, but=rayjob)
    status = _told(observed, status, rayjob)
    waits = sooner(sooner(waits, stale_waits), start_waits)
    return StageDecision(status=status, actions=actions, requeue_after_seconds=waits)


def _begun(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the RayJob of an attempt that was entered, and all that its pods need."""
    job, owner, attempt = job_of(observed), observed.owner, status.attempts[-1]
    if job.spec.suspend:
        told = Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message="suspended before it began")
        return _resting(observed, attempts.ended(observed, status, told))
    if observed.kuberay is not KubeRay.PRESENT:
        return _without_kuberay(observed, status)
    if (observed.run is None and not observed.run_problem) or attempt.run_digest is None:
        return _without_run(observed, status)
    pinned = replace(settings, trainer_image=status.run.image) if status.run and status.run.image else settings
    manifest = rayjob_manifest(job, attempt.run_digest, attempt.number, owner, pinned)
    # Somebody may have deleted the run's ConfigMap since an attempt mounted it.
    again = (Create(manifest=run_config_map(observed.run, owner)),) if observed.run and attempt.number > 1 else ()
    made: tuple[Action, ...] = (
        *again,
        *(() if observed.report else (Create(manifest=report_manifest(owner)),)),
        Create(manifest=service_account(owner)),
        Create(manifest=role(owner)),
        Create(manifest=role_binding(job, owner), update=("subjects",)),
        Create(manifest=manifest, if_current=True),
    )
    return StageDecision(status=status, actions=made)


def _without_run(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """The attempt waits: its run can't be read. Freezing makes it anew, once this attempt is out of the way."""
    told = "the frozen run's ConfigMap is gone before the attempt began"
    return _resting(
        observed, attempts.ended(observed, status, Ending(outcome=AttemptOutcome.DELETED, reason=Reason.RAYJOB_DELETED, message=told))
    )


def _without_kuberay(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    reason, message = _WITHOUT_KUBERAY[observed.kuberay]
    message = f"{message} ({observed.kuberay_message})" if observed.kuberay_message else message
    status = observe(observed, status, ConditionType.TRAINED, "False", reason, message)
    return StageDecision(status=status, stalled=(reason, message))


def _pods(observed: Observed, attempt: AttemptStatus) -> list[Json]:
    """Pods of the attempt's RayCluster."""
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    return observed.pods_of(CLUSTER_LABEL, cluster) if cluster else []


def _running_time(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None) -> FineTuneJobStatus:
    """The status with when the attempt was admitted, and when all of its pods first ran.

    While others hold the RayJob back no time runs: it begins anew when they let it go.
    """
    attempt = status.attempts[-1]
    if rayjob is not None and rayjob.queued:
        return attempts.with_last(status, start_time=None) if attempt.running_time is None else status
    if attempt.start_time is None:
        status = attempts.with_last(status, start_time=timestamp(observed.now))
    running = [pod for pod in _pods(observed, attempt) if phase(pod) == "Running"]
    if attempt.running_time is None and len(running) >= _expected_pods(observed):
        status = attempts.with_last(status, running_time=timestamp(observed.now))
    return status


def _expected_pods(observed: Observed) -> int:
    """The workers and the head."""
    return job_of(observed).spec.workers.nodes + 1


def _ending(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None, settings: Settings) -> tuple[Ending | None, float | None]:
    """How the attempt ended, or when to look again."""
    attempt = status.attempts[-1]
    pods = _pods(observed, attempt)
    report = observed.report_of(attempt)
    found = ending(Evidence(attempt=attempt, rayjob=rayjob, report=report, pods=pods, now=observed.now))
    if found is not None or rayjob is None:
        return found, None
    if rayjob.terminal:  # its last words are awaited
        return None, 5.0
    if attempt.stop_requested is not None:
        return _stop_deadline(observed, attempt, report is not None, settings), None
    return _start_deadline(observed, attempt, rayjob, pods)


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


def _start_deadline(observed: Observed, attempt: AttemptStatus, rayjob: RayJob, pods: list[Json]) -> tuple[Ending | None, float | None]:
    """All or nothing: pods that wait longer than startDeadlineSeconds give back what the others hold."""
    since = _waiting_since(attempt, pods)
    waited = seconds_between(since, observed.now)
    if rayjob.queued or waited is None:
        return None, None
    allowed = job_of(observed).spec.workers.start_deadline_seconds
    if waited < allowed:
        return None, allowed - waited
    running = sum(phase(pod) == "Running" for pod in pods)
    words = waits_for(pods) or f"see `kubectl describe rayjob {rayjob.name}`"
    told = f"{running} of {_expected_pods(observed)} pods ran after {allowed} s (workers.startDeadlineSeconds): {words}"
    return Ending(outcome=AttemptOutcome.NOT_STARTED, reason=Reason.START_DEADLINE_EXCEEDED, message=told), None


def _waiting_since(attempt: AttemptStatus, pods: list[Json]) -> str | None:
    """Since when pods are missing; None when none is. A pod that replaces one that ran counts from its own beginning."""
    if attempt.running_time is None:
        return attempt.start_time
    pending = [pod["metadata"].get("creationTimestamp") for pod in pods if phase(pod) == "Pending" and not is_gone(pod)]
    return min(filter(None, pending), default=None)


def _stop_asked(
    observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None, settings: Settings
) -> tuple[FineTuneJobStatus, tuple[Action, ...], float | None]:
    """Ask the driver to stop while the job is suspended, and withdraw that when it no longer is."""
    attempt, asked = status.attempts[-1], observed.report.spec.stop if observed.report else None
    made: tuple[Action, ...] = (
        () if observed.report or rayjob is None or rayjob.terminal else (Create(manifest=report_manifest(observed.owner)),)
    )
    if not job_of(observed).spec.suspend:
        withdraw: tuple[Action, ...] = (WithdrawStop(),) if asked is not None else ()
        if attempt.stop_requested is not None:
            status = attempts.with_last(status, stop_requested=None, stop_requested_time=None)
        return status, (*made, *withdraw), None
    if attempt.stop_requested is None:
        status = attempts.with_last(status, stop_requested=_STOP_FOR_SUSPENSION, stop_requested_time=timestamp(observed.now))
    cluster = attempt.ray_job.cluster if attempt.ray_job else None
    if cluster is None or rayjob is None or rayjob.terminal:
        return status, (), None
    waited = seconds_between(status.attempts[-1].stop_requested_time, observed.now) or 0.0
    ask: tuple[Action, ...] = ()
    if observed.report is not None and not (asked is not None and asked.cluster == cluster):
        ask = (AskToStop(cluster=cluster, reason=_STOP_FOR_SUSPENSION),)
    return status, (*made, *ask), max(_stop_seconds(settings) - waited, 1.0)


def _told(observed: Observed, status: FineTuneJobStatus, rayjob: RayJob | None) -> FineTuneJobStatus:
    """The condition of an attempt that goes on."""
    attempt = status.attempts[-1]
    name = f"attempt {attempt.number}"
    if attempt.stop_requested is not None:
        reason, message = Reason.STOPPING, f"{name} was asked to commit a checkpoint and stop"
    elif rayjob is not None and rayjob.queued:
        reason, message = Reason.QUEUED, f"{name}: RayJob {rayjob.name} is suspended by others, as Kueue does until there is quota"
    elif attempt.running_time is None:
        pods = _pods(observed, attempt)
        running = sum(phase(pod) == "Running" for pod in pods)
        words = waits_for(pods)
        reason, message = Reason.STARTING, f"{name}: {running} of {_expected_pods(observed)} pods run" + (f"; {words}" if words else "")
    else:
        reason, message = Reason.TRAINING, f"{name} runs"
    return observe(observed, status, ConditionType.TRAINED, "False", reason, message)


# ---- between two attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """RayJobs of former attempts that KubeRay may still do something with. `queued`: one that others suspended, and that goes on."""

    queued: RayJob | None
    others: tuple[RayJob, ...]


def _left(observed: Observed, status: FineTuneJobStatus) -> _Left:
    last = last_attempt(status)
    alive = [rayjob for rayjob in map(read_rayjob, observed.rayjobs) if not rayjob.terminal]
    queued = None
    if last is not None and last.outcome is AttemptOutcome.PREEMPTED and last.ray_job is not None and not job_of(observed).spec.suspend:
        queued = next((rayjob for rayjob in alive if rayjob.uid == last.ray_job.uid and not rayjob.deleting), None)
    return _Left(queued=queued, others=tuple(rayjob for rayjob in alive if rayjob is not queued))


def is_at_rest(observed: Observed, status: FineTuneJobStatus) -> bool:
    """Whether no attempt, no RayJob and no training pod holds anything."""
    alive = any(not read_rayjob(rayjob).terminal for rayjob in observed.rayjobs)
    pods = any(phase(pod) not in ("Succeeded", "Failed") for pod in observed.pods_of(keys.STAGE_LABEL, keys.TRAINING))
    return not (is_running(status) or alive or pods)


def leftovers(observed: Observed, but: RayJob | None = None) -> tuple[Action, ...]:
    """Deletions of RayJobs that KubeRay may still do something with, all `but` one."""
    alive = [rayjob for rayjob in map(read_rayjob, observed.rayjobs) if not rayjob.terminal and not rayjob.deleting and rayjob != but]
    return tuple(Delete(kind="RayJob", name=rayjob.name, uid=rayjob.uid) for rayjob in alive)


def _next(observed: Observed, status: FineTuneJobStatus, *, may_start: bool) -> StageDecision:
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
        return _without_kuberay(observed, status)
    if left.queued is not None:
        return _readmitted(observed, status, left.queued)
    return _resting(observed, status) if not may_start or _wait_seconds(observed, status) else _entered(observed, status)


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
    return StageDecision(status=_told(observed, status, queued))


def _wait_seconds(observed: Observed, status: FineTuneJobStatus) -> float:
    """Seconds until the next attempt may begin."""
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid)
    return 0.0 if start is None else max((start - observed.now).total_seconds(), 0.0)


def _resting(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
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
    start = next_start(status.attempts, job_of(observed).spec.failure_policy, observed.owner.uid)
    after = f"; the next begins after {timestamp(start)}" if start else ""
    told = f"attempt {last.number} ended: {last.outcome}" + (f" ({last.message})" if last.message else "")
    decision = _waits(observed, status, Reason.BACKING_OFF, told + after)
    return replace(decision, requeue_after_seconds=_wait_seconds(observed, status) or 0.1)


def _waits(observed: Observed, status: FineTuneJobStatus, reason: str, message: str) -> StageDecision:
    return StageDecision(status=observe(observed, status, ConditionType.TRAINED, "False", reason, message))


def _failed(observed: Observed, status: FineTuneJobStatus) -> StageDecision | None:
    """The end of the job, where the last attempt was one too many or can't go better. A raised `retry` forgives what was before."""
    last, usage = last_attempt(status), status.usage or UsageStatus()
    charged = usage.charged_failures - usage.forgiven_failures
    allowed = job_of(observed).spec.failure_policy.max_failures
    if last is None or charged == 0:
        return None
    if last.outcome is AttemptOutcome.INVALID_INPUT:
        reason, message = last.reason or Reason.TRAINING_FAILED, last.message or "the driver refused its input"
    elif charged > allowed:
        reason = Reason.TOO_MANY_FAILURES
        message = f"{charged} failures, and failurePolicy.maxFailures is {allowed}; the last: {last.message or last.reason}"
    else:
        return None
    status = observe(observed, status, ConditionType.TRAINED, "False", reason, message)
    return StageDecision(status=status, failed=(reason, message))
