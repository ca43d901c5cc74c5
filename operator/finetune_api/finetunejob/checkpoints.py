"""`spec.checkpoints`: where the state of training is kept, how often, and how much of it."""

from pydantic import Field, model_validator

from finetune_api.finetunejob.places import scheme
from finetune_api.finetunejob.pod_volumes import NamedVolume
from finetune_api.finetunejob.types import Natural, Place, Positive, SecretName, Spec, Word, at_most_one


class CheckpointInterval(Spec):
    """How often a checkpoint is committed."""

    seconds: Positive | None = Field(default=None, description="Seconds between checkpoints.")
    steps: Positive | None = Field(default=None, description="Optimizer steps between checkpoints.")

    @model_validator(mode="after")
    def _one_interval(self) -> "CheckpointInterval":
        at_most_one(self, "seconds", "steps")
        if self.seconds is None and self.steps is None:
            raise ValueError("has neither seconds nor steps; give one, or remove every for the automatic interval")
        return self


class Checkpoints(Spec):
    """Where and how often the state is saved."""

    storage: Place | None = Field(
        default=None,
        description="`s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or a directory; "
        "absent is the run folder, for `finetune run` only.",
    )
    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        max_length=1024,
        description="Where the storage answers; absent is Amazon, Google or Azure itself. `az://` without an account in the Secret needs "
        "`https://ACCOUNT.blob.core.windows.net`.",
    )
    region: Word | None = Field(default=None, description="S3 region.")
    credentials_secret: SecretName | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN) for `s3://`, GOOGLE_SERVICE_ACCOUNT_KEY "
        "(its JSON) for `gs://`, AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN for `az://`; absent "
        "uses the environment or the pod's identity.",
    )
    ca_bundle: NamedVolume | None = Field(default=None, description="ConfigMap with `ca.crt` for the endpoint.")
    every: CheckpointInterval | None = Field(
        default=None,
        description="Interval; absent is automatic, from the measured cost of a checkpoint. One is always committed at the end.",
    )
    keep: Natural = Field(
        default=3, description="Newest checkpoints kept; 0 keeps all. The best one is kept too when publish.checkpoint is best."
    )

    def as_for(self, address: str) -> "Checkpoints":
        """These settings for another place: endpoint, region and CA are those of one server, which is none for another kind of address."""
        own = scheme(self.storage or "")
        if not own or own == scheme(address):
            return self
        return self.model_copy(update={"endpoint": None, "region": None, "ca_bundle": None})
