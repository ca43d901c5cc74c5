"""FineTuneJob itself: its sections, budgets and name."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from finetune_api.finetunejob.checkpoints import Checkpoints
from finetune_api.finetunejob.dataset import Dataset
from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.evaluation import Evaluation, Generation
from finetune_api.finetunejob.model import BaseModelSpec
from finetune_api.finetunejob.pods import PodSettings, Workers
from finetune_api.finetunejob.publish import Publish
from finetune_api.finetunejob.template import TemplateSpec
from finetune_api.finetunejob.training import Training
from finetune_api.finetunejob.types import JobName, Model, Natural, Positive, Spec
from finetune_api.keys import API_VERSION, KIND


class FailurePolicy(Spec):
    """How many failures a job survives, and what follows. Preemption and node loss are not charged; failed starts, and what leads
    nowhere, count apart."""

    max_failures: Natural = Field(default=3, description="Failures that are charged before the job fails.")
    backoff_seconds: Positive = Field(default=30, description="Wait before the second attempt; doubles up to an hour.")
    max_failed_starts: Natural = Field(
        default=10,
        description="Attempts in a row whose pods may not all have run within `workers.startDeadlineSeconds` before the job fails.",
    )
    max_attempts_without_progress: Natural = Field(
        default=100,
        description="Attempts in a row that others may end (preempt, delete, lose nodes) without a new checkpoint before the job fails.",
    )
    halve_micro_batch_size: bool = Field(
        default=True,
        description="After an attempt whose workers ran out of memory (of a GPU, or of a pod on CPUs) the next ones run with half the "
        "microBatchSize or less, never below 1, and with the same steps; status.adjusted tells. False: with the same again.",
    )


class Budget(Spec):
    """What a job may use at most."""

    gpu_hours: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="GPU hours over all attempts. Used up, a checkpoint is committed and the job fails."
    )
    active_deadline_seconds: Positive | None = Field(
        default=None,
        description="Time from the making of the first preparation to the end of the job, with all that it waits for and while it is "
        "suspended. Passed, pods are asked for a checkpoint and the job fails.",
    )
    stage_deadline_seconds: Positive = Field(
        default=21600,
        description="Time that preparation, and later evaluation and publication each, may take from its pod's making, with all tries; "
        "not while Kueue holds it back.",
    )


def _with_held_out_data(field: str) -> Effect:
    return Effect(
        field=field,
        acts=lambda spec: spec.dataset.evaluation is not None,
        cel="has(self.dataset.evaluation)",
        message="acts on held-out data, and nothing is held out",
        remedy="set dataset.evaluation.fraction: 0.1, or remove it",
    )


class FineTuneJobSpec(Spec):
    """What is wanted."""

    model: BaseModelSpec = Field(description="The base model.")
    dataset: Dataset = Field(description="What is learnt from.")
    template: TemplateSpec = Field(default=TemplateSpec(), description="How a dialogue becomes tokens and labels.")
    training: Training = Field(default=Training(), description="How it is learnt.")
    workers: Workers = Field(default=Workers(), description="The training workers.")
    cpu_pods: PodSettings = Field(default=PodSettings(), description="Head, preparation and publication pods.")
    checkpoints: Checkpoints = Field(default=Checkpoints(), description="Where and how often the state is saved.")
    evaluation: Evaluation = Field(default=Evaluation(), description="What is measured.")
    generation: Generation = Field(default=Generation(), description="Defaults of the published model.")
    report_to: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], Field(max_length=3)] = Field(
        default=["tensorboard"],
        description="Where curves go besides status, Prometheus and metrics.jsonl: files for TensorBoard beside the checkpoints; Weights & "
        "Biases with cpuPods.env's WANDB_API_KEY and an image that has wandb; an MLflow server with cpuPods.env's MLFLOW_TRACKING_URI.",
    )
    publish: Publish = Field(default=Publish(), description="Where the trained model goes.")
    failure_policy: FailurePolicy = Field(default=FailurePolicy(), description="How many failures a job survives.")
    budget: Budget = Field(default=Budget(), description="What a job may use at most.")
    suspend: bool = Field(default=False, description="Stop after a checkpoint and give the GPUs back.")
    retry: Natural = Field(default=0, description="Raising it reopens a failed job at the stage that failed.")
    ttl_seconds_after_finished: Natural | None = Field(
        default=None, description="Delete the job this long after it finished; absent keeps it."
    )

    @property
    def publishes_adapter(self) -> bool:
        """Whether adapters alone go out, for whoever has the base model."""
        return self.training.adapter is not None and not self.publish.merge

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        _with_held_out_data("evaluation.every_epochs"),
        _with_held_out_data("evaluation.every_steps"),
        _with_held_out_data("evaluation.early_stopping"),
        _with_held_out_data("evaluation.micro_batch_size"),
        _with_held_out_data("publish.gate.evaluation_loss"),
        Effect(
            field="publish.gate.judge_win_rate",
            acts=lambda spec: spec.evaluation.judge is not None,
            cel="has(self.evaluation) && has(self.evaluation.judge)",
            message="is a judge's verdict, and evaluation.judge is absent",
            remedy="set evaluation.judge.model, or remove it",
        ),
        Effect(
            field="publish.merge",
            acts=lambda spec: spec.training.method != "full",
            cel="has(self.training) && has(self.training.method) && self.training.method != 'full'",
            message="is about adapters, and training.method: full has none",
            remedy="remove it, or set training.method: lora",
        ),
    )


class Metadata(Model):
    """The part of Kubernetes metadata that `finetune run` reads; other keys are the API server's business."""

    model_config = ConfigDict(extra="ignore")
    name: JobName = Field(description="Name of the job; also the name of the run folder.")
    namespace: str | None = Field(default=None, description="Namespace.")
    labels: dict[str, str] = Field(default={}, description="Labels.")
    annotations: dict[str, str] = Field(default={}, description="Annotations.")


class FineTuneJob(Model):
    """Turns a base language model into a chat assistant."""

    api_version: Literal["finetune.dev/v1alpha1"] = Field(default=API_VERSION, description="Version of this schema.")
    kind: Literal["FineTuneJob"] = Field(default=KIND, description="Always FineTuneJob.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: FineTuneJobSpec = Field(description="What is wanted.")
