"""Evaluation: what the driver measured on held-out data, observed as a condition. It holds nothing up."""

from finetune_api.conditions import ConditionType
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator.observation import Observed
from finetune_operator.settings import Settings
from finetune_operator.stages.decision import StageDecision, set_condition
from finetune_operator.stages.planning import job_of


def evaluation(observed: Observed, status: FineTuneJobStatus, settings: Settings) -> StageDecision:
    """Whether there is an evaluation of the trained model, once it is trained."""
    return StageDecision(status=evaluated(observed, status), done=True)


def evaluated(observed: Observed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status with the condition."""
    if job_of(observed).spec.dataset.evaluation is None:
        told = "nothing is held out (spec.dataset.evaluation is absent)"
        return set_condition(observed, status, ConditionType.EVALUATED, "True", Reason.NOT_REQUESTED, told)
    if (found := status.evaluation) is not None:
        told = f"loss {found.loss:.4f} on held-out data at step {found.step}"
        return set_condition(observed, status, ConditionType.EVALUATED, "True", Reason.EVALUATED, told)
    told = "no evaluation was reported; its figures are in the job's storage"
    return set_condition(observed, status, ConditionType.EVALUATED, "Unknown", Reason.WAITING, told)
