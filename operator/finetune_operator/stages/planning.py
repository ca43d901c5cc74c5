"""Planning: the arithmetic of the job, before any pod exists and again, final, once its data is known.

A plan that is refused is Planned=False and Stalled with every problem; the next generation of the spec is looked at anew.
"""

from dataclasses import dataclass

from finetune_api.conditions import ConditionType
from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob, ModelShape
from finetune_api.fit import gib
from finetune_api.plan import WHETHER_IT_FITS, cluster_plan
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus, plan_status
from finetune_api.training_run import DataShape, Plan, Vocabulary
from finetune_operator.observation import Observed
from finetune_operator.stages.decision import StageDecision, observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What preparation found out."""

    model_revision: str
    model_shape: ModelShape
    vocabulary: Vocabulary
    data: DataShape


def planning(observed: Observed, status: FineTuneJobStatus, facts: Facts | None) -> StageDecision:
    """The plan with what is known, or everything that is wrong with the job."""
    if observed.job is None:
        return refused(observed, status, observed.problems)
    try:
        found = checked_plan(observed, facts)
    except InvalidSpec as error:
        return refused(observed, status, str(error))
    status = status.model_copy(update={"plan": plan_status(found, final=facts is not None)})
    return StageDecision(status=observe(observed, status, ConditionType.PLANNED, "True", Reason.PLANNED, summary(found)), done=True)


def checked_plan(observed: Observed, facts: Facts | None) -> Plan:
    """The plan. Raises InvalidSpec with every problem."""
    return cluster_plan(job_of(observed), facts.model_shape if facts else None, facts.data if facts else None)


def refused(observed: Observed, status: FineTuneJobStatus, message: str) -> StageDecision:
    """What a refused plan amounts to: nothing is started until the spec changes."""
    status = observe(observed, status, ConditionType.PLANNED, "False", Reason.INVALID_SPEC, message)
    return StageDecision(status=status, stalled=(Reason.INVALID_SPEC, message))


def job_of(observed: Observed) -> FineTuneJob:
    """The job, where planning has passed."""
    assert observed.job is not None, "planning lets nothing else through"
    return observed.job


def summary(found: Plan) -> str:
    """The plan in a line; first of all that a job for GPUs was not compared with their memory, when it wasn't.

    `8 workers on 1 node, 87 steps, 43.1 of 80.0 GiB a worker, about 5.2 GPU hours`
    """
    nodes = f"{found.nodes} node{'s' if found.nodes > 1 else ''}"
    parts = [f"{found.world_size} {found.device} worker{'s' if found.world_size > 1 else ''} on {nodes}"]
    if found.total_steps is not None:
        parts.append(f"{found.total_steps} steps")
    if found.memory is not None:
        capacity = f" of {gib(found.memory.capacity_bytes)}" if found.memory.capacity_bytes else ""
        parts.append(f"{gib(found.memory.total_bytes)}{capacity} GiB a worker")
    if found.gpu_hours is not None:
        parts.append(f"about {found.gpu_hours:.1f} GPU hours")
    if found.unknown:
        parts.append("unknown: " + ", ".join(unknown.name for unknown in found.unknown))
    return ". ".join([*_loudly(found), ", ".join(parts)])


def _loudly(found: Plan) -> list[str]:
    """Whoever reads nothing else learns that this job may end out of memory."""
    if found.device == "cpu":
        return []
    return [f"NOT COMPARED with the memory of any GPU: {unknown.why}" for unknown in found.unknown if unknown.name == WHETHER_IT_FITS]
