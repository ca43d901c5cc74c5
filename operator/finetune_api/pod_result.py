"""PodResult: what a pod says with its last breath, in its termination message.

Out: the trainer writes it (preparation, training, evaluation, publication). In: the operator reads it, as untrusted input: whoever may
run a pod may write anything there. The kubelet keeps 4096 bytes of a message, so a result is never longer.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from finetune_api.bounded_text import shortened
from finetune_api.conditions import StatusModel
from finetune_api.errors import FineTuneError, InvalidInput
from finetune_api.finetunejob import ModelShape, Natural
from finetune_api.status import MOST_TASKS, Digest, EvaluatedTask, JudgedStatus, LastLines, Text
from finetune_api.training_run import DataShape, Vocabulary

# What the kubelet keeps of a container's termination message, in bytes.
LARGEST_MESSAGE: Final = 4096
LONGEST_TEXT: Final = 1024

# Exit codes of the pods' commands: the operator reads the result first, and these when there is none.
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1  # may be tried again
EXIT_INVALID_INPUT: Final = 2  # fails again until something is changed
EXIT_STOPPED: Final = 3  # on request, after a checkpoint was committed

PodReason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)]


class PreparationResult(StatusModel):
    """What preparation found out: everything that the final plan and the frozen run need."""

    model_revision: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="Commit of the base model.")
    model_shape: ModelShape = Field(description="Shape of the base model.")
    vocabulary: Vocabulary = Field(description="Tokens, control tokens included.")
    data: DataShape = Field(description="Size of the prepared data.")


class PublicationResult(StatusModel):
    """What was published, verified against the remote."""

    repository: Annotated[str, Field(min_length=1, max_length=1024)] = Field(description="Repository or directory.")
    revision: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="Commit, or a digest of the files.")
    step: Natural = Field(description="Step of the published checkpoint.")
    evaluation_loss: float | None = Field(default=None, description="Its evaluation loss, if there is one.")


class EvaluationResult(StatusModel):
    """What was measured after training. `fitting` leaves out what a termination message has no room for; all of it is in `results`."""

    step: Natural = Field(description="Step of the evaluated checkpoint.")
    loss: float | None = Field(default=None, description="Its mean loss of held-out tokens, if training measured it.")
    digest: Digest = Field(min_length=1, description="`evaluation_digest` of what was measured.")
    tasks: Annotated[tuple[EvaluatedTask, ...], Field(max_length=MOST_TASKS)] = Field(default=(), description="Benchmarks.")
    judge: JudgedStatus | None = Field(default=None, description="The judge's verdict, if one was asked.")
    results: Text | None = Field(default=None, description="Place of all figures.")

    @model_validator(mode="after")
    def _the_rate_is_in_its_interval(self) -> Self:
        if self.judge is not None and not self.judge.low <= self.judge.win_rate <= self.judge.high:
            raise ValueError("judge.winRate is not between low and high")
        return self

    def fitting(self) -> Iterator["EvaluationResult"]:
        """The same with ever less of what may be left out: the last tasks, and then the place."""
        for count in range(len(self.tasks), -1, -1):
            yield self.model_copy(update={"tasks": self.tasks[:count]})
        yield self.model_copy(update={"tasks": (), "results": None})


class PodResult(StatusModel):
    """How a pod's command ended. `parse_pod_result(result.to_termination_message())` equals `result`, unless it had to be cut."""

    contract_version: Literal[1] = Field(default=1, description="Version of this JSON.")
    outcome: Literal["Done", "Failed", "Stopped"] = Field(description="Stopped: on request, after a checkpoint was committed.")
    reason: PodReason | None = Field(
        default=None, description="Class of the failure, as in finetune_api.errors; StoppedEarly of a training that is done."
    )
    message: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = Field(
        default=None, description="What a person should know: what, where, the remedy."
    )
    permanent: bool = Field(default=False, description="Whether the same input fails again until it is changed.")
    last_lines: LastLines | None = Field(
        default=None, description="Of a failure: the last lines of the traceback that explains it, without secrets."
    )
    preparation: PreparationResult | None = Field(default=None, description="Of a preparation that is done.")
    publication: PublicationResult | None = Field(default=None, description="Of a publication that is done.")
    evaluation: EvaluationResult | None = Field(default=None, description="Of an evaluation that is done.")

    @classmethod
    def failed(cls, error: BaseException) -> "PodResult":
        """The result of an error; its message is cut to fit."""
        if isinstance(error, FineTuneError):
            reason, message = error.reason, str(error)
        else:
            reason, message = "Unexpected", f"{type(error).__name__}: {error}"
        return cls(outcome="Failed", reason=reason, message=shortened(message, LONGEST_TEXT), permanent=isinstance(error, InvalidInput))

    @property
    def exit_code(self) -> int:
        """What the pod's command exits with."""
        if self.outcome == "Failed":
            return EXIT_INVALID_INPUT if self.permanent else EXIT_FAILED
        return EXIT_DONE if self.outcome == "Done" else EXIT_STOPPED

    @property
    def without_lines(self) -> "PodResult":
        """The same without its last lines, which the message is worth more than."""
        return self.model_copy(update={"last_lines": None})

    def to_termination_message(self) -> str:
        """JSON of at most 4096 bytes of UTF-8: a message that is too long is cut, a result that can't fit becomes a failure."""
        for result, longest in ((self, LONGEST_TEXT), *((self.without_lines, longest) for longest in (LONGEST_TEXT, 512, 128, 0))):
            text = result._json(longest)
            if len(text.encode()) <= LARGEST_MESSAGE:
                return text
        for evaluation in self.evaluation.fitting() if self.evaluation is not None else ():
            text = self.model_copy(update={"evaluation": evaluation})._json(0)
            if len(text.encode()) <= LARGEST_MESSAGE:
                return text
        told = f"the result has {len(text.encode())} bytes, and a termination message holds {LARGEST_MESSAGE}"
        return PodResult(outcome="Failed", reason="ResultTooLarge", message=told, permanent=True)._json(LONGEST_TEXT)

    def _json(self, longest_text: int) -> str:
        message = None if self.message is None else shortened(self.message, longest_text)
        values = self.model_copy(update={"message": message}).model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def parse_pod_result(text: str | None) -> PodResult | None:
    """The result in a termination message; None when there is none, or something else wrote it."""
    if not text or len(text) > LARGEST_MESSAGE:
        return None
    try:
        return PodResult.model_validate_json(text, by_alias=True, by_name=False)
    except ValidationError:
        return None
