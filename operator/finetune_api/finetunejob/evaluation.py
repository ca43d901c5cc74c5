"""`spec.evaluation` and `spec.generation`: what is measured, and how the published model answers."""

from typing import Annotated

from pydantic import Field, model_validator

from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.finetunejob.types import Natural, Positive, Spec


class Evaluation(Spec):
    """What is measured."""

    every_epochs: Positive = Field(default=1, description="Epochs between evaluations; step 0 is always one.")
    micro_batch_size: Positive | None = Field(
        default=None, description="Rows per worker and forward pass; absent is training.microBatchSize."
    )


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
