"""Training: attempts, one after another, each one RayCluster, until one finishes.

A RayJob is made once and never applied again, and only for an attempt that the status has entered. Nothing of an attempt is
left to the next: it begins when the RayJob before it has ended or is gone, from the newest checkpoint in storage. What is seen
of an attempt is in `running`, what comes between two in `between_attempts`; how one ended is judged in `failures`, the record is kept in
`attempts`.
"""

from dataclasses import replace

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_operator import keys
from finetune_operator.failures import Ending
from finetune_operator.observation import KubeRay, Observed, as_frozen, is_running, last_attempt
from finetune_operator.resources.rayjob import rayjob as rayjob_manifest
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.settings import Settings
from finetune_operator.stages import attempts, budget
from finetune_operator.stages.between_attempts import (
    between_attempts,
    delete_old_rayjobs,
    delete_rayjobs_of_ended_attempts,
    delete_stale_rayjobs,
    next_attempt,
    without_kuberay,
)
from finetune_operator.stages.decision import Action, Create, StageDecision, set_condition, sooner
from finetune_operator.stages.fencing import fencing
from finetune_operator.stages.freezing import pinned
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.pod_job import unfinished
from finetune_operator.stages.reporting import reporting
from finetune_operator.stages.running import ending_of, followed, goes_on, stalled, stop_asked
from finetune_operator.stages.sizing import attempted


def training(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Follow the attempt that runs, or begin the next one."""
    last = last_attempt(status)
    if last is not None and last.outcome is AttemptOutcome.FINISHED:
        told = f"attempt {last.number} finished" + (f" at step {last.last_step}" if last.last_step is not None else "")
        if last.reason == Reason.STOPPED_EARLY and last.message:
            told = last.message
        status = set_condition(observed, status, ConditionType.TRAINED, "True", Reason.TRAINED, told)
        # A RayJob that Kueue suspended after its driver finished: let go on, it would take its GPUs for nothing.
        return StageDecision(status=status, actions=delete_stale_rayjobs(observed), done=True)
    if is_running(status):
        return _followed(observed, status, settings)
    return next_attempt(observed, status)


def training_held_up(observed: Observed, status: FineTuneJobStatus, settings: Settings, held_up: StageDecision) -> StageDecision:
    """What happens while a stage before training isn't done: an attempt that runs is followed, and none begins.

    A change that is refused stops nothing, unless it comes with a suspension; what follows a failure is for a spec to say that can be read.
    """
    going_on = observed if observed.job is not None else as_frozen(observed)
    if not is_running(status) or going_on is None:
        stopped = unfinished(observed) if observed.raw["spec"].get("suspend") is True else ()
        more = [action for action in stopped if action not in held_up.actions]
        return held_up.after(*delete_rayjobs_of_ended_attempts(observed, status), *more)
    followed = held_up.then(training(going_on, status, settings))
    return replace(followed, stalled=held_up.stalled, failed=followed.failed if observed.job is not None else None, done=False)


def _followed(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Look at the attempt's RayJob; make it, if the attempt was entered and nothing more."""
    attempt = status.attempts[-1]
    rayjob = observed.rayjob(attempt.ray_job.name if attempt.ray_job else keys.rayjob_name(observed.owner.name, attempt.number))
    if attempt.ray_job is None and rayjob is None:
        return _begun(observed, status, settings)
    if observed.kuberay is not KubeRay.PRESENT:  # then nothing is known of any RayJob
        return without_kuberay(observed, status)
    if rayjob is not None and attempt.ray_job is not None and rayjob.uid != attempt.ray_job.uid:
        rayjob = None
    if rayjob is not None:
        status = attempts.recorded(status, rayjob)
    status, actions, waits = stop_asked(observed, attempts.reported(observed, status), rayjob, settings)
    status, stale_waits = attempts.staleness(observed, followed(observed, status, rayjob))
    found, start_waits = ending_of(observed, status, rayjob, settings)
    if found is not None:
        # What is left of it is deleted once its ending is recorded, so that a crash in between changes no outcome.
        return between_attempts(observed, attempts.ended(observed, status, found))
    # One RayJob at a time: another one was made for an attempt that had ended already.
    actions += delete_stale_rayjobs(observed, but=rayjob)
    status = goes_on(observed, status, rayjob, settings)
    stuck, stuck_waits = stalled(observed, status, rayjob)
    waits = sooner(sooner(waits, stale_waits), sooner(start_waits, stuck_waits))
    return StageDecision(status=status, actions=actions, stalled=stuck, requeue_after_seconds=waits)


def _begun(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the RayJob of an attempt that was entered, and all that its pods need."""
    job, owner, attempt = attempted(job_of(observed), status), observed.owner, status.attempts[-1]
    if job.spec.suspend:
        told = Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message="suspended before it began")
        return between_attempts(observed, attempts.ended(observed, status, told))
    if observed.kuberay is not KubeRay.PRESENT:
        return without_kuberay(observed, status)
    if not (observed.run_text or observed.run_problem) or attempt.run_digest is None:
        return _without_run(observed, status)
    manifest = rayjob_manifest(
        job,
        attempt.run_digest,
        attempt.number,
        owner,
        pinned(status, settings),
        avoided=attempt.avoided_nodes or (),
        seconds_left=budget.attempt_seconds(observed, status, settings),
        failures_left=attempts.failures_left(observed, status),
    )
    # Somebody may have deleted the run's ConfigMap since an attempt mounted it.
    again = (Create(manifest=run_config_map(observed.run_text, owner)),) if observed.run_text and attempt.number > 1 else ()
    made: tuple[Action, ...] = (
        *again,
        *(fencing(owner, settings) if attempt.number > 1 else ()),
        *reporting(observed, again=attempt.number > 1),
        Create(manifest=manifest, if_current=True),
        *delete_old_rayjobs(observed),
    )
    return StageDecision(status=status, actions=made)


def _without_run(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """The attempt waits: its run can't be read. Freezing makes it anew, once this attempt is out of the way."""
    told = "the frozen run's ConfigMap is gone before the attempt began"
    return between_attempts(
        observed, attempts.ended(observed, status, Ending(outcome=AttemptOutcome.DELETED, reason=Reason.RAYJOB_DELETED, message=told))
    )
