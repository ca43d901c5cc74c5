"""Planning: the arithmetic of the job, before any pod exists and again, final, once its data is known.

A plan that is refused is Planned=False and Stalled with every problem; the next generation of the spec is looked at anew.
"""

from dataclasses import replace
from typing import Final

from finetune_api.conditions import ConditionType, find
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob
from finetune_api.fit import gib
from finetune_api.gone_fields import gone_fields_in
from finetune_api.plan import cluster_plan
from finetune_api.plan_notes import WHETHER_IT_FITS
from finetune_api.price import cost_of, price_of
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, plan_status
from finetune_api.training_run import Plan
from finetune_operator.observation import Observed
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import StageDecision, set_condition
from finetune_operator.stages.facts import Facts, facts_of_run
from finetune_operator.stages.sizing import attempted

# Nothing announces that a ConfigMap was mended.
_DEFAULTS_SECONDS: Final = 60.0


def planning(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """The plan with what is known, or everything that is wrong with the job."""
    if observed.job is None:
        return refused(observed, status, observed.problems)
    if observed.defaults_problem:
        wrong = refused(observed, status, observed.defaults_problem, Reason.INVALID_DEFAULTS)
        return replace(wrong, requeue_after_seconds=_DEFAULTS_SECONDS)
    if dropped := _refused_for_what_is_gone(observed):
        return refused(observed, status, dropped)
    facts = facts_of_run(observed, status)
    try:
        found = checked_plan(observed, status, facts)
    except InvalidSpec as error:
        return refused(observed, status, str(error))
    shape, data = (facts.model_shape, facts.data) if facts else (None, None)
    told = plan_status(found, attempted(observed.job, status).spec, shape, data, final=facts is not None, prices=settings.prices)
    status = status.model_copy(update={"plan": told})
    return StageDecision(
        status=set_condition(observed, status, ConditionType.PLANNED, "True", Reason.PLANNED, summary(found, settings)), done=True
    )


def _refused_for_what_is_gone(observed: Observed) -> str:
    """Why a job waits for a person that was refused for a field which the API server has dropped since; empty where none does."""
    planned = find(observed.status.conditions, ConditionType.PLANNED)
    if planned is None or planned.reason != Reason.INVALID_SPEC or planned.observed_generation != observed.generation:
        return ""
    told = "this version has no such field, and the job was refused for it; raise spec.retry, or change the spec, to go on without it"
    return "\n".join(f"{field}: {told}" for field in gone_fields_in(planned.message))


def checked_plan(observed: Observed, status: FineTuneJobStatus, facts: Facts | None) -> Plan:
    """The plan of the next attempt. Raises InvalidSpec with every problem, also of the job as its spec says it."""
    job, shape, data = job_of(observed), facts.model_shape if facts else None, facts.data if facts else None
    found, smaller = cluster_plan(job, shape, data), attempted(job, status)
    return found if smaller is job else cluster_plan(smaller, shape, data)


def refused(observed: Observed, status: FineTuneJobStatus, message: str, reason: str = Reason.INVALID_SPEC) -> StageDecision:
    """What a refused plan amounts to: nothing is started until what is wrong changes."""
    status = set_condition(observed, status, ConditionType.PLANNED, "False", reason, message)
    return StageDecision(status=status, stalled=(reason, message))


def job_of(observed: Observed) -> FineTuneJob:
    """The job, where planning has passed."""
    assert observed.job is not None, "planning lets nothing else through"
    return observed.job


def summary(found: Plan, settings: Settings) -> str:
    """The plan in a line; first of all that a job for GPUs was not compared with their memory, when it wasn't.

    `8 workers on 1 node, 87 steps, 43.1 of 80.0 GiB a worker, 4.9 to 6.7 GPU hours, at most about $15`
    """
    nodes = f"{found.nodes} node{'s' if found.nodes > 1 else ''}"
    parts = [f"{found.world_size} {found.device} worker{'s' if found.world_size > 1 else ''} on {nodes}"]
    if found.total_steps is not None:
        parts.append(f"{found.total_steps} steps")
    if found.memory is not None:
        capacity = f" of {gib(found.memory.capacity_bytes)}" if found.memory.capacity_bytes else ""
        parts.append(f"{gib(found.memory.total_bytes)}{capacity} GiB a worker")
    if found.gpu_hours is not None:
        best = found.best_gpu_hours
        same = best is None or f"{best:.1f}" == f"{found.gpu_hours:.1f}"
        parts.append(f"about {found.gpu_hours:.1f} GPU hours" if same else f"{best:.1f} to {found.gpu_hours:.1f} GPU hours")
    if (cost := cost_of(found, price_of(found, settings.prices))) is not None:
        parts.append(f"at most about ${cost:,.0f}")
    if found.unknown:
        parts.append("unknown: " + ", ".join(unknown.name for unknown in found.unknown))
    seconds = found.timing.checkpoint_seconds if found.timing is not None else None
    late = [short_grace(seconds, "a checkpoint may take", settings)] if seconds is not None and seconds > settings.stop_seconds else []
    return ". ".join([*_loudly(found), ", ".join(parts), *late])


def short_grace(seconds: float, what: str, settings: Settings) -> str:
    """That a pod which is to go can't commit a checkpoint in its grace period, with the remedy.

    >>> short_grace(300.0, "a checkpoint may take", Settings(trainer_image="x"))
    'a checkpoint may take 300 s, and a pod that is stopped has 240 s for one (trainer.stopSeconds of the chart): raise it'
    """
    grace = f"{settings.stop_seconds} s for one (trainer.stopSeconds of the chart)"
    return f"{what} {seconds:.0f} s, and a pod that is stopped has {grace}: raise it"


def _loudly(found: Plan) -> list[str]:
    """Whoever reads nothing else learns that this job may end out of memory."""
    if found.device == "cpu":
        return []
    return [f"NOT COMPARED with the memory of any GPU: {unknown.why}" for unknown in found.unknown if unknown.name == WHETHER_IT_FITS]
