"""`spec.publish`: what becomes of the model, and on what condition."""

from typing import Literal

from pydantic import Field, model_validator

from finetune_api.finetunejob.types import Place, Prose, SecretKey, Spec, Word, at_most_one


class HubPublication(Spec):
    """A repository on the Hugging Face Hub."""

    repository: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200, description="`org/name`; created when absent."
    )
    private: bool = Field(default=True, description="Visibility of a repository that we create. If true, one that is public is refused.")
    revision: Word = Field(default="main", description="Branch to publish to; created when absent.")
    message: Prose | None = Field(default=None, description="Commit message; absent names job and step.")
    token_secret: SecretKey | None = Field(default=None, description="Token that may write.")
    when: Literal["end", "everyCheckpoint"] = Field(
        default="end", description="After training, or also at each checkpoint. `everyCheckpoint` is not built yet."
    )


class DirectoryPublication(Spec):
    """A directory, for example on a shared volume."""

    path: Place = Field(description="Directory; relative to the job file in `finetune run`.")


class Maximum(Spec):
    """An upper bound."""

    max: float = Field(description="Largest value that passes.")


class Gate(Spec):
    """What must hold before a model is published."""

    evaluation_loss: Maximum | None = Field(default=None, description="Evaluation loss of the published checkpoint.")


class Publish(Spec):
    """Where the trained model goes."""

    checkpoint: Literal["last", "best"] = Field(default="last", description="`best` is the one with the lowest evaluation loss.")
    hub: HubPublication | None = Field(default=None, description="A Hub repository.")
    directory: DirectoryPublication | None = Field(default=None, description="A directory.")
    gate: Gate = Field(default=Gate(), description="Conditions of publication.")

    @model_validator(mode="after")
    def _one_place(self) -> "Publish":
        at_most_one(self, "hub", "directory")
        return self
