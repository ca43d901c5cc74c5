"""FineTuneJob.status.evaluation and .publication: how good the model is, and where."""

from typing import Annotated

from pydantic import Field

from finetune_api.conditions import ConditionType, StatusItem, StatusModel
from finetune_api.finetunejob import Natural, Positive
from finetune_api.finetunejob.types import Share
from finetune_api.status.types import LONGEST_TASK, MOST_TASKS, Digest, Name, NotNegative, Text, Word


class EvaluatedTask(StatusItem):
    """One number of a benchmark: of the trained model, and of its base on the same documents."""

    task: Annotated[str, Field(min_length=1, max_length=LONGEST_TASK)] = Field(description="Name of the task.")
    metric: Word = Field(min_length=1, description="Name of the number, such as acc_norm.")
    value: float | None = Field(default=None, description="Of the trained model; absent where the task gave no number.")
    standard_error: NotNegative | None = Field(default=None, description="Of value.")
    base: float | None = Field(default=None, description="The same of the base model.")
    shots: Natural = Field(description="Examples before each question.")
    limit: Positive | None = Field(default=None, description="Documents that were asked for; absent is all.")
    documents: Natural = Field(description="Documents that were asked.")


class JudgedStatus(StatusModel):
    """How often a judge preferred the trained model's answer to its base's, each pair seen in both orders."""

    model: Annotated[str, Field(min_length=1, max_length=256)] = Field(description="The judge.")
    win_rate: Share = Field(description="Share of the prompts that the trained model won.")
    low: Share = Field(description="Lower end of its 95 % interval, which the gate compares.")
    high: Share = Field(description="Upper end.")
    prompts: Natural = Field(description="Prompts with a readable verdict.")
    partial: bool | None = Field(default=None, description="True: evaluation.judge.maxTokens ended it before the last prompt.")


class EvaluationStatus(StatusModel):
    """The newest evaluation: of training, and after it that of tasks, judge and samples."""

    step: Natural = Field(description="Step of the evaluated checkpoint.")
    loss: float | None = Field(default=None, description="Mean loss of held-out tokens; absent where none are held out.")
    perplexity: float | None = Field(default=None, description="exp(loss); absent where it is too large.")
    digest: Digest | None = Field(
        default=None, description="Digest of what was measured after training, and of which run; absent before that."
    )
    tasks: Annotated[list[EvaluatedTask], Field(max_length=MOST_TASKS)] | None = Field(
        default=None, description=f"Benchmarks, at most {MOST_TASKS} numbers; all are in `results`."
    )
    judge: JudgedStatus | None = Field(default=None, description="The judge's verdict.")
    results: Text | None = Field(default=None, description="Where all figures, answers and verdicts are.")
    failed_job: Name | None = Field(
        default=None, description="Job of an evaluation that failed for good: none of that name is made again. Absent once one is done."
    )


def passed_stages(evaluation: EvaluationStatus | None) -> tuple[ConditionType, ...]:
    """Stages that aren't done and hold nothing up: an evaluation that failed."""
    return (ConditionType.EVALUATED,) if evaluation is not None and evaluation.failed_job is not None else ()


class PublicationStatus(StatusModel):
    """Where the model is."""

    digest: Digest | None = Field(default=None, description="Digest of all that the publication was made from.")
    repository: Text = Field(description="Repository or directory.")
    revision: Digest = Field(description="Commit, verified file by file.")
    step: Natural | None = Field(default=None, description="Step of the published checkpoint.")
    evaluation_loss: float | None = Field(default=None, description="Its evaluation loss.")


def figures_text(found: EvaluationStatus) -> str:
    """The figures of an evaluation, for display.

    >>> figures_text(EvaluationStatus(step=10, loss=1.5))
    'loss 1.5000 on held-out data at step 10'
    >>> arc = EvaluatedTask(task="arc", metric="acc", value=0.41, base=0.38, shots=25, documents=9)
    >>> figures_text(EvaluationStatus(step=10, tasks=[arc], judge=JudgedStatus(model="j", win_rate=0.6, low=0.4, high=0.7, prompts=40)))
    'step 10: arc acc 0.410 (base 0.380), judge j: wins 60 % (40 to 70) of 40 prompts'
    """
    if found.digest is None and not found.tasks and found.judge is None:
        return f"loss {found.loss:.4f} on held-out data at step {found.step}" if found.loss is not None else f"step {found.step}"
    parts = [f"loss {found.loss:.4f} on held-out data"] if found.loss is not None else []
    for task in found.tasks or []:
        base = f" (base {task.base:.3f})" if task.base is not None else ""
        parts.append(f"{task.task} {task.metric} " + (f"{task.value:.3f}{base}" if task.value is not None else "without a number"))
    if (judge := found.judge) is not None:
        low, high = judge.low * 100, judge.high * 100
        parts.append(f"judge {judge.model}: wins {judge.win_rate * 100:.0f} % ({low:.0f} to {high:.0f}) of {judge.prompts} prompts")
    return f"step {found.step}: {', '.join(parts) or 'done'}"
