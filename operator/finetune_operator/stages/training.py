"""Training: attempts, one after another, each one RayCluster, until one finishes.

A RayJob is made once and never applied again, and only for an attempt that the status has entered. Nothing of an attempt is
left to the next: it begins when the RayJob before it has ended or is gone, from the newest checkpoint in storage. What is seen
of an attempt is in `running`, what comes between two in `resting`; how one ended is judged in `failures`, the record is kept in
`attempts`.
"""

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_operator import keys
from finetune_operator.failures import Ending
from finetune_operator.observation import KubeRay, Observed, is_running, last_attempt
from finetune_operator.resources.rayjob import rayjob as rayjob_manifest
from finetune_operator.resources.run_config_map import run_config_map
from finetune_operator.settings import Settings
from finetune_operator.stages import attempts
from finetune_operator.stages.decision import Action, Create, StageDecision, observe, sooner
from finetune_operator.stages.freezing import pinned
from finetune_operator.stages.planning import job_of
from finetune_operator.stages.reporting import reporting
from finetune_operator.stages.resting import leftovers, next_attempt, resting, without_kuberay
from finetune_operator.stages.running import ending_of, followed, goes_on, stop_asked


def training(observed: Observed, status: FineTuneJobStatus, settings: Settings, *, may_start: bool) -> StageDecision:
    """Follow the attempt that runs, or begin the next one."""
    last = last_attempt(status)
    if last is not None and last.outcome is AttemptOutcome.FINISHED:
        told = f"attempt {last.number} finished" + (f" at step {last.last_step}" if last.last_step is not None else "")
        status = observe(observed, status, ConditionType.TRAINED, "True", Reason.TRAINED, told)
        # One that others suspended in the meantime: let go on, it would take its GPUs for nothing.
        return StageDecision(status=status, actions=leftovers(observed), done=True)
    if is_running(status):
        return _followed(observed, status, settings)
    return next_attempt(observed, status, may_start=may_start)


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
        return resting(observed, attempts.ended(observed, status, found))
    # One RayJob at a time: another one was made for an attempt that had ended already.
    actions += leftovers(observed, but=rayjob)
    status = goes_on(observed, status, rayjob)
    waits = sooner(sooner(waits, stale_waits), start_waits)
    return StageDecision(status=status, actions=actions, requeue_after_seconds=waits)


def _begun(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Make the RayJob of an attempt that was entered, and all that its pods need."""
    job, owner, attempt = job_of(observed), observed.owner, status.attempts[-1]
    if job.spec.suspend:
        told = Ending(outcome=AttemptOutcome.STOPPED, reason=Reason.STOP_REQUESTED, message="suspended before it began")
        return resting(observed, attempts.ended(observed, status, told))
    if observed.kuberay is not KubeRay.PRESENT:
        return without_kuberay(observed, status)
    if (observed.run is None and not observed.run_problem) or attempt.run_digest is None:
        return _without_run(observed, status)
    manifest = rayjob_manifest(job, attempt.run_digest, attempt.number, owner, pinned(status, settings))
    # Somebody may have deleted the run's ConfigMap since an attempt mounted it.
    again = (Create(manifest=run_config_map(observed.run_text, owner)),) if observed.run_text and attempt.number > 1 else ()
    made: tuple[Action, ...] = (
        *again,
        *reporting(observed, again=attempt.number > 1),
        Create(manifest=manifest, if_current=True),
    )
    return StageDecision(status=status, actions=made)


def _without_run(observed: Observed, status: FineTuneJobStatus) -> StageDecision:
    """The attempt waits: its run can't be read. Freezing makes it anew, once this attempt is out of the way."""
    told = "the frozen run's ConfigMap is gone before the attempt began"
    return resting(
        observed, attempts.ended(observed, status, Ending(outcome=AttemptOutcome.DELETED, reason=Reason.RAYJOB_DELETED, message=told))
    )
