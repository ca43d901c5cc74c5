"""What preparation found out, from the run that is frozen already or from the preparation pod's result. Pure."""

from dataclasses import dataclass

from finetune_api.finetunejob import ModelShape
from finetune_api.pod_result import PreparationResult
from finetune_api.status import FineTuneJobStatus
from finetune_api.training_run import DataShape, TrainingRun, Vocabulary
from finetune_operator.observation import Observed
from finetune_operator.resources.digests import preparation_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the final plan and the run need to know of the model and of the data."""

    model_revision: str
    model_shape: ModelShape
    vocabulary: Vocabulary
    data: DataShape


def facts_of(found: TrainingRun | PreparationResult) -> Facts:
    """The facts in a run or in a pod's result."""
    return Facts(model_revision=found.model_revision, model_shape=found.model_shape, vocabulary=found.vocabulary, data=found.data)


def facts_of_run(observed: Observed, status: FineTuneJobStatus) -> Facts | None:
    """What the frozen run says, if it was made from this preparation, or if it is fixed because an attempt exists."""
    run, recorded = observed.run, status.run
    if run is None or recorded is None or observed.job is None:
        return None
    if status.attempt == 0 and recorded.preparation_digest != preparation_digest(observed.job):
        return None
    return facts_of(run)
