"""`spec.model`: the base model."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.places import hub_place_cel, is_hub_place, is_path, path_cel
from finetune_api.finetunejob.types import ObjectName, Place, Positive, SecretKey, Spec, Word


class ModelShape(Spec):
    """The numbers of a decoder-only transformer that memory and time depend on."""

    architecture: Word = Field(description="Transformers class, for example `GPTBigCodeForCausalLM`.")
    layers: Positive = Field(description="Decoder layers.")
    hidden_size: Positive = Field(description="Width of the residual stream.")
    intermediate_size: Positive = Field(description="Width of the feed-forward layer; of experts, of all that one token is sent to.")
    attention_heads: Positive = Field(description="Query heads.")
    key_value_heads: Positive = Field(description="Key and value heads; 1 is multi-query.")
    head_size: Positive = Field(description="Width of one head.")
    vocabulary_size: Positive = Field(description="Rows of the embedding, before control tokens are added.")
    positions: Positive | None = Field(default=None, description="Longest sequence the model can take; absent: it has no limit of its own.")
    parameters: Positive = Field(description="Parameters in all, tied ones counted once.")
    active_parameters: Positive | None = Field(
        default=None, description="Parameters that one token meets, in a mixture of experts; absent: all."
    )
    sliding_window: Positive | None = Field(
        default=None, description="Tokens that a layer with a sliding window sees; absent: no layer has one."
    )
    sliding_layers: Positive | None = Field(default=None, description="Layers with a sliding window; absent: all, where there is a window.")

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(
            field="sliding_layers",
            acts=lambda shape: shape.sliding_window is not None,
            cel="has(self.slidingWindow)",
            message="counts layers with a sliding window, and none is given",
            remedy="remove it, or give slidingWindow too",
        ),
    )


class ModelCache(Spec):
    """A PersistentVolumeClaim that keeps downloaded weights between jobs."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim.")


def _of_the_hub(field: str, message: str) -> Effect:
    return Effect(field=field, acts=lambda model: is_hub_place(model.name), cel=hub_place_cel("name"), message=message)


class BaseModelSpec(Spec):
    """The base model."""

    name: Place = Field(
        description="Hub id (`org/name`), `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, "
        "or a directory (`./x`, `../x`, `/x`; relative to the job file).",
    )
    revision: Word = Field(default="main", description="Branch, tag or commit on the Hub; resolved to a commit before training.")
    initialization: Literal["pretrained", "random"] = Field(
        default="pretrained", description="`random` trains from the directory's config.json with weights drawn from training.seed."
    )
    token_secret: SecretKey | None = Field(default=None, description="Hub token for gated or private models.")
    cache: ModelCache | None = Field(default=None, description="Where weights are kept between jobs.")
    shape: ModelShape | None = Field(
        default=None, description="For planning before config.json can be read; checked against it afterwards."
    )

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        _of_the_hub("revision", "names a branch, tag or commit of the Hub, and this model is none of the Hub's"),
        _of_the_hub("token_secret", "is a token for the Hub, and this model is none of the Hub's"),
        Effect(
            field="cache",
            acts=lambda model: not is_path(model.name),
            cel=f"!{path_cel('name')}",
            message="keeps what is downloaded, and this model is at a path that pods read in place",
        ),
    )
