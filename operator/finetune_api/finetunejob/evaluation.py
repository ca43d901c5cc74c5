"""`spec.evaluation` and `spec.generation`: what is measured, and how the published model answers."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from finetune_api.finetunejob.effects import Effect, FieldErrors
from finetune_api.finetunejob.pods import PodSettings
from finetune_api.finetunejob.types import Natural, Place, Positive, SecretKey, Spec, Word, whole

TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$", max_length=128)]
# A summary of more would be no summary.
MOST_SAMPLES = 64


class EarlyStopping(Spec):
    """When training ends before its last step."""

    patience: Positive = Field(default=3, description="Evaluations in a row, none of which was better, that end training.")
    min_delta: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="An evaluation is better when its loss is below that of the last better one by more than this."
    )


class Judge(Spec):
    """A model behind an OpenAI-compatible endpoint. It compares answers of the trained model with those of its base, in both orders."""

    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        max_length=1024,
        description="The endpoint, as in https://host/v1; absent is OPENAI_BASE_URL of the pod, or else OpenAI's.",
    )
    model: Word = Field(description="The judge, as the endpoint calls it.")
    api_key_secret: SecretKey | None = Field(default=None, description="The endpoint's key; absent is OPENAI_API_KEY of the pod.")
    prompts: Place | None = Field(default=None, description="Prompts: a file of the pod's volumes, or a Hub data set; absent is ours.")
    limit: Positive = Field(default=40, description="Prompts that are judged: the first ones of a file, and of ours some of each kind.")
    max_tokens: Positive = Field(default=200_000, description="Tokens that the judge may take in all, with those of its replies.")


class Samples(Spec):
    """Answers of the base model beside those of the trained one, greedy and sampled."""

    prompts: Place | None = Field(default=None, description="Prompts: a file of the pod's volumes, or a Hub data set; absent is ours.")
    count: Annotated[int, Field(ge=1, le=MOST_SAMPLES), BeforeValidator(whole)] = Field(
        default=8, description="Prompts that are answered, the first ones."
    )
    max_new_tokens: Positive = Field(default=256, description="Longest answer.")


class EvaluationPod(PodSettings):
    """The evaluation's pod. What it leaves out is that of `cpuPods`; both are merged by key, `env` and `volumes` by name."""

    gpus: Natural = Field(default=0, description="GPUs of its own, of the workers' kind, once those of training are given back.")


_TASKS_CEL = "(has(self.tasks) && self.tasks.size() > 0)"


def _of_tasks(field: str) -> Effect:
    return Effect(
        field=field,
        acts=lambda evaluation: bool(evaluation.tasks),
        cel=_TASKS_CEL,
        message="is of benchmarks, and tasks names none",
        remedy="set tasks: [arc_challenge], or remove it",
    )


def _of_stage(field: str) -> Effect:
    return Effect(
        field=field,
        acts=lambda evaluation: evaluation.has_stage,
        cel=f"{_TASKS_CEL} || has(self.judge) || has(self.samples)",
        message="is of the evaluation after training, and none is asked for",
        remedy="set tasks, judge or samples, or remove it",
    )


class Evaluation(Spec):
    """What is measured: the loss of held-out data during training, and after it what `tasks`, `judge` and `samples` ask for."""

    every_epochs: Positive = Field(default=1, description="Epochs between evaluations; step 0 is always one.")
    every_steps: Positive | None = Field(default=None, description="Optimizer steps between evaluations, instead of epochs.")
    early_stopping: EarlyStopping | None = Field(
        default=None, description="End training when the evaluation loss gets no better; absent trains to the last step."
    )
    micro_batch_size: Positive | None = Field(
        default=None, description="Rows per worker and forward pass; absent is training.microBatchSize."
    )
    tasks: Annotated[list[TaskName], Field(max_length=64)] = Field(
        default=[], description="Benchmarks, as `finetune evaluate --tasks` knows them; base and trained model take the same ones."
    )
    num_fewshot: Natural | None = Field(default=None, description="Examples before each question; absent is each task's own number.")
    limit: Positive | None = Field(default=None, description="Documents of each task, the first ones; absent is all.")
    batch_size: Positive = Field(default=8, description="Prompts at a time.")
    task_data: Place | None = Field(
        default=None,
        description="Folder with the tasks' files, in the pod's volumes; relative to the job file in `finetune run`. Absent: the Hub's.",
    )
    judge: Judge | None = Field(default=None, description="Who judges the trained model's answers against its base's; absent is nobody.")
    samples: Samples | None = Field(default=None, description="Answers that are shown in card and report; absent is none.")
    pod: EvaluationPod | None = Field(default=None, description="The pod of the evaluation after training; absent is as `cpuPods`.")

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(
            field="every_epochs",
            acts=lambda evaluation: evaluation.every_steps is None,
            cel="!has(self.everySteps)",
            message="and everySteps exclude each other",
            remedy="remove it, or everySteps",
        ),
        _of_tasks("num_fewshot"),
        _of_tasks("limit"),
        _of_tasks("task_data"),
        _of_stage("batch_size"),
        _of_stage("pod"),
    )

    @property
    def has_stage(self) -> bool:
        """Whether something is measured after training, in a pod of its own."""
        return bool(self.tasks) or self.judge is not None or self.samples is not None


class Generation(Spec):
    """Defaults written to the published model's generation config."""

    temperature: Annotated[float, Field(ge=0.0)] = Field(default=0.2, description="0 is greedy.")
    top_k: Natural = Field(default=50, description="Candidates kept; 0 keeps all.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(default=0.95, description="Probability mass kept.")
    repetition_penalty: Annotated[float, Field(gt=0.0)] = Field(default=1.2, description="1 is none.")
    min_new_tokens: Natural = Field(default=1, description="Shortest answer; the blog's 32 forbids short ones.")
    max_new_tokens: Positive = Field(default=256, description="Longest answer.")

    @model_validator(mode="after")
    def _shortest_is_not_longer(self) -> "Generation":
        if self.min_new_tokens > self.max_new_tokens:
            told = f"{self.min_new_tokens} is above maxNewTokens, which is {self.max_new_tokens}"
            raise FieldErrors([("minNewTokens", told, f"use at most {self.max_new_tokens}, or raise maxNewTokens")])
        return self
