"""EvaluationSummary: what the evaluation stage found of one checkpoint, small enough for a card, a report and a gate.

Out: the evaluation stage writes it, as `evaluation/<digest>/summary.json` in the job's storage and in a run folder. In: publication and
report read it as untrusted input: whoever may write to the storage may write anything there, so every text and list has a largest size.
All numbers are in `evaluation.json` beside it, all of a judge's replies in `judge/`, all answers in `samples.jsonl`.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from finetune_api.bounded_text import shortened
from finetune_api.conditions import StatusModel
from finetune_api.finetunejob import Natural, Positive

SCHEMA: Final[Literal["finetune-evaluation-summary/1"]] = "finetune-evaluation-summary/1"
# In the job's storage and in a run folder; below it one folder a digest.
EVALUATION_FOLDER: Final = "evaluation"
SUMMARY_FILE: Final = "summary.json"
LARGEST_SUMMARY_BYTES: Final = 8 * 2**20
MOST_TASKS: Final = 512
MOST_SAMPLES: Final = 64
MOST_NOTES: Final = 64
LONGEST_NAME: Final = 256
LONGEST_NOTE: Final = 1024
LONGEST_SAMPLE: Final = 4096

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Note = Annotated[str, Field(max_length=LONGEST_NOTE)]
SampleText = Annotated[str, Field(max_length=LONGEST_SAMPLE)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TaskSummary(StatusModel):
    """One number of a benchmark, of the tuned model and of its base, on the same documents."""

    task: Name = Field(description="Name of the task, as `finetune evaluate --tasks` knows it, or of a group's member.")
    metric: Name = Field(description="Name of the number, such as acc_norm.")
    value: float | None = Field(default=None, description="Of the tuned model; absent where the task gave no number.")
    standard_error: float | None = Field(default=None, description="Of `value`; absent where the task gives none.")
    base: float | None = Field(default=None, description="The same number of the base model.")
    base_standard_error: float | None = Field(default=None, description="Of `base`.")
    low: float | None = Field(default=None, description="Lower end of the 95 % interval of `value` minus `base` (paired bootstrap).")
    high: float | None = Field(default=None, description="Upper end.")
    verdict: Literal["better", "worse", "no difference shown"] | None = Field(
        default=None, description="What the interval says of the tuned model; absent where documents can't be paired."
    )
    higher_is_better: bool = Field(default=True, description="Whether a higher number is a better one.")
    shots: Natural = Field(description="Examples before each question.")
    limit: Positive | None = Field(default=None, description="Documents that were asked for; absent: all.")
    documents: Natural = Field(description="Documents that were asked.")
    documents_there: Natural = Field(description="Documents that the task has.")
    chat_template: bool = Field(default=False, description="Whether the tuned model was asked in its chat template.")
    group: Name | None = Field(default=None, description="Task whose mean this number is part of; absent for what was asked for by name.")


class JudgeSummary(StatusModel):
    """How often a judge preferred the tuned model's answer to the base model's, each pair seen in both orders."""

    model: Name = Field(description="The judge, as its endpoint calls it.")
    prompts: Natural = Field(description="Pairs with a readable verdict: what `winRate` is a share of.")
    wins: Natural = Field(description="Pairs that the tuned model won in both orders.")
    win_rate: Share = Field(description="`wins` of `prompts`; ties and flips count against it.")
    low: Share = Field(description="Lower end of its 95 % interval (Wilson's); a gate compares it.")
    high: Share = Field(description="Upper end.")
    losses: Natural = Field(default=0, description="Pairs that the base model won in both orders.")
    ties: Natural = Field(default=0, description="Pairs that nobody won, equal answers included.")
    flips: Natural = Field(default=0, description="Pairs whose winner changed with the order.")
    unreadable: Natural = Field(default=0, description="Pairs without a readable verdict, which are left out.")
    tokens: Natural = Field(default=0, description="Tokens that the judge took, as its endpoint counts them.")
    partial: bool = Field(default=False, description="Whether `judge.maxTokens` ended it before the last pair.")

    @model_validator(mode="after")
    def _the_rate_is_in_its_interval(self) -> Self:
        if not self.low <= self.win_rate <= self.high:
            raise ValueError(f"winRate {self.win_rate} is not between low {self.low} and high {self.high}")
        return self


class SampleSummary(StatusModel):
    """One prompt with the answers of both models. Long ones are cut, with an ellipsis. A base without weights has none."""

    prompt: SampleText = Field(description="What was asked; of a dialogue all messages, each with its role before it.")
    base_greedy: SampleText | None = Field(default=None, description="The base model's likeliest tokens; absent: it has no weights.")
    tuned_greedy: SampleText = Field(description="The tuned model's likeliest tokens.")
    base_sampled: SampleText | None = Field(default=None, description="Drawn from the base model, as `spec.generation` says.")
    tuned_sampled: SampleText = Field(description="Drawn from the tuned model, in the same way.")


class EvaluationSummary(StatusModel):
    """All that a reader of a card needs. `digest` names the evaluation (`evaluation_digest`): what was measured, of which run."""

    schema_name: Literal["finetune-evaluation-summary/1"] = Field(default=SCHEMA, alias="schema", description="Version of this JSON.")
    digest: Name = Field(description="Digest of what was measured; also the folder's name.")
    step: Natural = Field(description="Step of the evaluated checkpoint.")
    checkpoint: Name | None = Field(default=None, description="Digest of its manifest; what is measured of another one is another result.")
    loss: float | None = Field(default=None, description="Its mean loss of held-out tokens, if training measured it.")
    base_model: Name = Field(description="Name of the base model.")
    tasks: Annotated[tuple[TaskSummary, ...], Field(max_length=MOST_TASKS)] = Field(default=(), description="Benchmarks.")
    judge: JudgeSummary | None = Field(default=None, description="The judge's verdict, if one was asked.")
    samples: Annotated[tuple[SampleSummary, ...], Field(max_length=MOST_SAMPLES)] = Field(default=(), description="Answers of both models.")
    notes: Annotated[tuple[Note, ...], Field(max_length=MOST_NOTES)] = Field(
        default=(), description="What a reader of the numbers must know, such as a benchmark that was trained on."
    )

    def to_json(self) -> str:
        """The text of summary.json, with its newline."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def bounded(text: str, longest: int) -> str:
    """A text for one of the fields above. The empty one, which no name is, becomes `?`.

    >>> bounded("abcdefgh", 6), bounded("", 6)
    ('abc...', '?')
    """
    return shortened(text, longest) or "?"


def summary_key(digest: str, name: str = SUMMARY_FILE) -> str:
    """Where a file of the evaluation of this digest is, below the job's storage or a run folder.

    >>> summary_key("12ab")
    'evaluation/12ab/summary.json'
    """
    return f"{EVALUATION_FOLDER}/{digest}/{name}"


def parse_summary(data: bytes, digest: str) -> EvaluationSummary | None:
    """The summary in the bytes of a summary.json; None when it is of another evaluation, too large, or not what this program wrote."""
    if len(data) > LARGEST_SUMMARY_BYTES:
        return None
    try:
        summary = EvaluationSummary.model_validate_json(data, by_alias=True, by_name=False)
    except ValidationError:
        return None
    return summary if summary.digest == digest else None
