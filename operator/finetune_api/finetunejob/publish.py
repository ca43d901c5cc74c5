"""`spec.publish`: what becomes of the model, and on what condition."""

from typing import Literal

from pydantic import Field, model_validator

from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.finetunejob.hub_ids import LONGEST_PART, REPOSITORY, hub_id_problem, like_hub_id
from finetune_api.finetunejob.places import is_like_an_address
from finetune_api.finetunejob.pod_volumes import NamedVolume
from finetune_api.finetunejob.types import Place, Prose, SecretKey, SecretName, Share, Spec, Word, at_most_one


class HubPublication(Spec):
    """A repository on the Hugging Face Hub."""

    repository: str = Field(pattern=REPOSITORY, max_length=2 * LONGEST_PART + 1, description="`org/name`; created when absent.")
    private: bool = Field(default=True, description="Visibility of a repository that we create. If true, one that is public is refused.")
    revision: Word = Field(default="main", description="Branch to publish to; created when absent.")
    tag: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?$",
        max_length=200,
        description="Tag of the commit, for example `v1.0`. One that names another commit is refused.",
    )
    message: Prose | None = Field(default=None, description="Commit message; absent names job and step.")
    token_secret: SecretKey | None = Field(default=None, description="Token that may write.")

    @model_validator(mode="after")
    def _the_hub_takes_the_name(self) -> "HubPublication":
        if problem := hub_id_problem(self.repository):
            like = like_hub_id(self.repository)
            raise FieldErrors([("repository", f'"{self.repository}" {problem}', f"write {like}" if like else "write it as org/name")])
        return self


_NO_FOLDER = "write a path, or publish to object storage with publish.storage.path"


class DirectoryPublication(Spec):
    """A directory, for example on a shared volume."""

    path: Place = Field(description="Directory; relative to the job file in `finetune run`.")

    @model_validator(mode="after")
    def _no_address(self) -> "DirectoryPublication":
        if is_like_an_address(self.path):
            raise FieldErrors([("path", "is an address, and a directory is a folder of this machine or of a pod", _NO_FOLDER)])
        return self


class StoragePublication(Spec):
    """Object storage: the model's files under one prefix. Absent settings are those of `checkpoints`, if they are of the same kind."""

    path: Place = Field(
        description="`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, empty or with an earlier model of this job."
    )
    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        max_length=1024,
        description="As of the checkpoints. If given, nothing is taken from `checkpoints`.",
    )
    region: Word | None = Field(default=None, description="S3 region.")
    credentials_secret: SecretName | None = Field(default=None, description="Keys that may write there, named as for the checkpoints.")
    ca_bundle: NamedVolume | None = Field(default=None, description="ConfigMap with `ca.crt` for the endpoint.")


class Maximum(Spec):
    """An upper bound."""

    max: float = Field(description="Largest value that passes.")


class Minimum(Spec):
    """A lower bound of a share."""

    min: Share = Field(description="Smallest value that passes.")


class Gate(Spec):
    """What must hold before a model is published."""

    evaluation_loss: Maximum | None = Field(default=None, description="Evaluation loss of the published checkpoint.")
    judge_win_rate: Minimum | None = Field(
        default=None,
        description="Share of prompts on which evaluation.judge prefers the trained model to its base: the lower end of the 95 % interval.",
    )


class Card(Spec):
    """What the model card says beside what is known of the run."""

    limitations: Prose | None = Field(
        default=None, description="What the model can't do or was not tested for, in Markdown; stands beside the known limitations."
    )


class Publish(Spec):
    """Where the trained model goes."""

    checkpoint: Literal["last", "best"] = Field(default="last", description="`best` is the one with the lowest evaluation loss.")
    hub: HubPublication | None = Field(default=None, description="A Hub repository.")
    directory: DirectoryPublication | None = Field(default=None, description="A directory.")
    storage: StoragePublication | None = Field(default=None, description="Object storage.")
    merge: bool = Field(
        default=True, description="A LoRA run's model goes out whole, with the adapters added to its weights; false: the adapter alone."
    )
    gate: Gate = Field(default=Gate(), description="Conditions of publication.")
    card: Card = Field(default=Card(), description="The author's part of the model card.")

    @model_validator(mode="after")
    def _one_place(self) -> "Publish":
        at_most_one(self, "hub", "directory", "storage")
        return self

    @property
    def place(self) -> HubPublication | DirectoryPublication | StoragePublication | None:
        """Where the model goes; None leaves it in the run folder, and on a cluster in its checkpoint."""
        return self.hub or self.directory or self.storage
