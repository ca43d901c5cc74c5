"""FineTuneJob.status.defaults, .preparation and .run: what a run is made from, and the run once it is fixed."""

from typing import Annotated

from pydantic import Field

from finetune_api.conditions import StatusModel
from finetune_api.finetunejob import Natural, Positive
from finetune_api.finetunejob.types import FreeObject
from finetune_api.status.types import Digest, Name, Text, Word


class DefaultsStatus(StatusModel):
    """Defaults of the platform, as they were when the job took them: another time they may be others."""

    sources: Annotated[list[Text], Field(max_length=4)] = Field(description="Where they come from, the first wins.")
    values: FreeObject = Field(description="What jobs are given: workers, cpuPods, checkpoints, accelerators.")


class PreparationStatus(StatusModel):
    """The newest preparation. Its Job's name carries its digest, so that another spec is another Job."""

    digest: Digest = Field(description="Digest of all that preparation reads.")
    job: Name = Field(description="Name of the Job.")
    data_fingerprint: Digest | None = Field(default=None, description="Fingerprint of the prepared data; absent until it is done.")
    dialogues: Natural | None = Field(default=None, description="Dialogues to train on.")
    tokens: Natural | None = Field(default=None, description="Tokens to train on.")
    supervised_tokens: Natural | None = Field(default=None, description="Tokens that count in the loss.")
    rows: Natural | None = Field(default=None, description="Packed rows to train on.")
    evaluation_rows: Natural | None = Field(default=None, description="Packed rows that are held out.")


class RunStatus(StatusModel):
    """The frozen run that every attempt executes."""

    identity: Digest = Field(description="Digest of model, data, template and training; storage belongs to it.")
    digest: Digest = Field(description="Digest of the frozen TrainingRun.")
    config_map: Name = Field(description="Name of the immutable ConfigMap that holds it as run.json.")
    preparation_digest: Digest = Field(description="Digest of the preparation that it was made from.")
    contract_version: Positive = Field(default=1, description="Version of its JSON.")
    image: Text | None = Field(default=None, description="Image of the trainer, for all of the run's pods.")
    ray_version: Word | None = Field(default=None, description="Version of Ray in the image, which KubeRay is told.")
    image_that_ran: Text | None = Field(
        default=None, description="Name and digest of the image that preparation ran, where the node told it; later pods run that very one."
    )
    model_revision: Digest = Field(description="Commit of the base model.")
    data_fingerprint: Digest = Field(description="Fingerprint of the prepared data.")
