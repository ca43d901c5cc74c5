"""THE STORY: observe -> decide -> apply -> status.

`reconcile` is a pure function of what is observed of one job. It walks the pipeline's stages in order, each deciding from the
state of the cluster and never from the stage that it wrote before; so it may run at any time, any number of times, and be
killed anywhere. What it decides is applied in this order: the actions, then the events, which are named by the transition, then
one write of the status: who dies in between does all of it again, and what is there already is as good. Only an attempt's entry
is written before anything of the attempt is made.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol

from finetune_api.conditions import ConditionType, find, is_true, open_stage
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, FineTuneJobStatus, passed_stages
from finetune_api.times import seconds_between
from finetune_operator.events import Event, not_cleaned_up, transitions
from finetune_operator.failures import Ending
from finetune_operator.observation import Observed, Refusal, is_finished, is_running, is_settled
from finetune_operator.runtime.errors import ApiError
from finetune_operator.settings import Settings
from finetune_operator.stages import attempts
from finetune_operator.stages.between_attempts import delete_lingering_rayjobs, delete_stale_rayjobs, is_at_rest
from finetune_operator.stages.budget import active_seconds
from finetune_operator.stages.decision import Action, AskToStop, Create, Delete, StageDecision, set_condition, sooner
from finetune_operator.stages.dry_run import dry_run
from finetune_operator.stages.evaluation import evaluation
from finetune_operator.stages.freezing import freezing
from finetune_operator.stages.planning import planning
from finetune_operator.stages.pod_job import unfinished
from finetune_operator.stages.preparation import preparation
from finetune_operator.stages.publication import publication
from finetune_operator.stages.training import training, training_held_up
from finetune_operator.status import begun, concluded, is_reopened, looked_at
from finetune_operator.usage import counted, next_release_seconds

Key = tuple[str, str]  # namespace, name of a FineTuneJob

# The pipeline, in order. Each stage makes one decision of what is observed and of the status that the stages before it leave.
_BEFORE_TRAINING: Final = (planning, dry_run, preparation, freezing)
_AFTER_TRAINING: Final = (evaluation, publication)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What has to be done for a job, in this order, and when to look again if nothing happens."""

    status: FineTuneJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_seconds: float | None = None
    # An attempt was entered, or its RayJob made: the next step needs nothing but what this one read and wrote.
    at_once: bool = False


class Cluster(Protocol):
    """What the story needs of the API server; `cluster.py` is the real one."""

    def observe(self, key: Key) -> Observed | None:
        """Everything about a job; None when there is none."""

    def apply(self, observed: Observed, action: Action) -> None:
        """Do it. Raises Refused where the API server doesn't let us, ApiError where trying again may help."""

    def emit(self, observed: Observed, events: tuple[Event, ...]) -> float | None:
        """Tell people, and what they couldn't be told before. Never fails; seconds until a look that tells the rest, if one is left."""

    def write_status(self, observed: Observed, status: FineTuneJobStatus) -> None:
        """Write what changed, if anything did and nobody else wrote since."""


class Refused(Exception):
    """The API server doesn't let us make or change an object."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.name}: {refusal.message}")
        self.refusal = refusal


def reconcile_once(cluster: Cluster, key: Key, settings: Settings) -> Decision | None:
    """Observe, decide, apply, write, for one job. None when the job is gone."""
    observed = cluster.observe(key)
    if observed is None:
        return None
    decision = reconcile(observed, settings)
    refused, unasked = _applied(cluster, observed, decision.actions)
    if refused is not None:
        observed = replace(observed, refusal=refused)
        decision = _keeping_its_stop(reconcile(observed, settings), decision.status)
    again = cluster.emit(observed, decision.events)
    cluster.write_status(observed, decision.status)
    if unasked is not None:
        raise unasked
    return replace(decision, requeue_after_seconds=sooner(decision.requeue_after_seconds, again))


def _applied(cluster: Cluster, observed: Observed, actions: tuple[Action, ...]) -> tuple[Refusal | None, ApiError | None]:
    """Do it all. What was refused first, after which nothing is made any more; and why a driver couldn't be asked to stop.

    Neither keeps the status from being written: the stop's deadline counts from there, asked or not.
    """
    refused: Refusal | None = None
    unasked: ApiError | None = None
    for action in actions:
        if refused is not None and not isinstance(action, Delete):
            continue
        try:
            cluster.apply(observed, action)
        except Refused as found:
            refused = refused or found.refusal
        except ApiError as error:
            if not isinstance(action, AskToStop):
                raise
            unasked = error
    return refused, unasked


def _keeping_its_stop(refused: Decision, decided: FineTuneJobStatus) -> Decision:
    """What follows a refusal, with what was decided about stopping the attempt that runs."""
    status = refused.status
    if not (is_running(status) and is_running(decided) and status.attempt == decided.attempt):
        return refused
    last = decided.attempts[-1]
    kept = attempts.with_last(status, stop_requested=last.stop_requested, stop_requested_time=last.stop_requested_time)
    return replace(refused, status=kept)


def reconcile(observed: Observed, settings: Settings) -> Decision:
    """What one look at a job leads to."""
    if observed.deleting:  # its objects go with it, by their owner references; bucket and Hub keep theirs
        return Decision(status=observed.status)
    if is_finished(observed.status) and not is_reopened(observed):
        return _finished(observed)
    if observed.refusal is not None:
        return _refused(observed, settings)
    walked = _walked(observed, begun(observed), settings)
    walked = _within_deadline(observed, walked)
    status = concluded(
        observed,
        counted(observed, walked.status),
        succeeded=walked.done,
        failed=walked.failed,
        stalled=walked.stalled,
        at_rest=is_at_rest(observed, walked.status),
    )
    lingering, lingering_waits = delete_lingering_rayjobs(observed, status)
    waits = sooner(sooner(walked.requeue_after_seconds, lingering_waits), _ttl_seconds(observed, status))
    return Decision(
        status=status,
        actions=(*walked.actions, *lingering),
        events=transitions(observed.status, status),
        requeue_after_seconds=sooner(waits, next_release_seconds(observed, status)),
        at_once=status.attempt > observed.status.attempt or any(_makes_rayjob(action) for action in walked.actions),
    )


def _makes_rayjob(action: Action) -> bool:
    return isinstance(action, Create) and action.manifest["kind"] == "RayJob"


def _walked(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """The stages, each with the status of the one before, up to the first that isn't done. Done: the job succeeded."""
    stages = (training, *_AFTER_TRAINING) if is_settled(observed, status) else (*_BEFORE_TRAINING, training, *_AFTER_TRAINING)
    walked = StageDecision(status=status, done=True)
    for stage in stages:
        walked = walked.then(stage(observed, walked.status, settings))
        if not walked.done:
            return training_held_up(observed, walked.status, settings, walked) if stage in _BEFORE_TRAINING else walked
    return walked


def _within_deadline(observed: Observed, walked: StageDecision) -> StageDecision:
    """The decision, or the job's failure when it has taken longer than it may. An attempt that runs ends there."""
    allowed = observed.job.spec.budget.active_deadline_seconds if observed.job else None
    waited = active_seconds(observed, walked.status)
    if allowed is None or waited is None or walked.done or walked.failed:
        return walked
    if waited < allowed:
        return replace(walked, requeue_after_seconds=sooner(walked.requeue_after_seconds, allowed - waited))
    status = walked.status
    kind = _open_stage(status) or ConditionType.TRAINED
    stage = find(status.conditions, kind)
    words = f" ({stage.message})" if stage is not None and stage.message else ""
    message = (
        f"budget.activeDeadlineSeconds is {allowed}, and preparation began {waited:.0f} s ago{words}; raise it and spec.retry to go on"
    )
    failed = (Reason.DEADLINE_EXCEEDED, message)
    if is_running(status):
        status = attempts.ended(observed, status, Ending(outcome=AttemptOutcome.STOPPED, reason=failed[0], message=message))
    # What runs is deleted with the next look, when the failure is recorded.
    return StageDecision(status=set_condition(observed, status, kind, "False", *failed), failed=failed)


def _open_stage(status: FineTuneJobStatus) -> ConditionType | None:
    """The stage that the job is at."""
    found = open_stage(status.conditions, passed=passed_stages(status.evaluation))
    return found[0] if found is not None else None


def _finished(observed: Observed) -> Decision:
    """Nothing is left to do but to clean up, now or when the time has come; pods that are still going are counted."""
    status = counted(observed, looked_at(observed))
    if observed.refusal is not None:
        return Decision(status=status, events=(not_cleaned_up(observed.refusal),), requeue_after_seconds=observed.refusal.retry_seconds)
    wait = _ttl_seconds(observed, status)
    # One that succeeded has nothing that goes on; one that failed publishes nothing any more.
    going_on = unfinished(observed) if is_true(status.conditions, ConditionType.FAILED) else ()
    lingering, lingering_waits = delete_lingering_rayjobs(observed, status)
    actions: tuple[Action, ...] = (*delete_stale_rayjobs(observed), *lingering, *going_on)
    if wait is not None and wait <= 0:
        actions = (*actions, Delete(kind="FineTuneJob", name=observed.owner.name, uid=observed.owner.uid))
    waits = sooner(wait if wait and wait > 0 else None, sooner(lingering_waits, next_release_seconds(observed, status)))
    return Decision(status=status, actions=actions, requeue_after_seconds=waits)


def _ttl_seconds(observed: Observed, status: FineTuneJobStatus) -> float | None:
    """Seconds until a finished job is deleted; None is never."""
    ttl = observed.job.spec.ttl_seconds_after_finished if observed.job else None
    waited = seconds_between(status.completion_time, observed.now)
    if ttl is None or waited is None or not is_finished(status):
        return None
    return max(ttl - waited, 0.0)


def _refused(observed: Observed, settings: Settings) -> Decision:
    """An object that we need couldn't be made: say so, keep everything else as it was, and try again."""
    refusal, status = observed.refusal, begun(observed)
    assert refusal is not None
    if not is_settled(observed, status):
        # One that is refused now was not planned in between.
        conditions = {"conditions": status.conditions} if refusal.planning else {}
        status = planning(observed, status, settings).status.model_copy(update=conditions)
    kind = ConditionType.PLANNED if refusal.planning else _open_stage(status) or ConditionType.PUBLISHED
    message = f"{refusal.name}: {refusal.message}"
    status = set_condition(observed, status, kind, "False", refusal.reason, message)
    stalled = (refusal.reason, message) if refusal.needs_person else None
    at_rest, status = is_at_rest(observed, status), counted(observed, status)
    status = concluded(observed, status, succeeded=False, failed=None, stalled=stalled, at_rest=at_rest)
    return Decision(status=status, events=transitions(observed.status, status), requeue_after_seconds=refusal.retry_seconds)
