"""`spec.training.lora`: keys of PEFT's LoraConfig."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from finetune_api.finetunejob.effects import FieldErrors
from finetune_api.finetunejob.types import Positive, Spec, whole

ALL_LINEAR = "all-linear"
# A module's name, or the end of its path: `q_proj`, `self_attn.q_proj`.
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(-linear|(\.[A-Za-z0-9_]+)*)$", max_length=256)]
Modules = Annotated[list[ModuleName], Field(max_length=64)]


class Lora(Spec):
    """Keys of PEFT's `LoraConfig`, under PEFT's own names and with its defaults, but that every linear layer gets an adapter."""

    model_config = ConfigDict(alias_generator=None)
    r: Annotated[int, Field(ge=1, le=4096), BeforeValidator(whole)] = Field(
        default=8, description="Rank of an adapter: it adds r x (inputs + outputs) parameters to a layer; absent means 8."
    )
    lora_alpha: Positive = Field(default=8, description="What an adapter adds is multiplied by lora_alpha / r; absent means 8.")
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.0, description="Dropout before the adapters.")
    target_modules: Modules = Field(
        default=[ALL_LINEAR],
        min_length=1,
        description="Layers that get an adapter: names or ends of paths; absent means `[all-linear]`, all but the head.",
    )
    modules_to_save: Modules = Field(default=[], description="Modules that are trained in full besides, and are part of the adapter.")
    use_rslora: bool = Field(default=False, description="Multiply by lora_alpha / sqrt(r) instead.")
    use_dora: bool = Field(default=False, description="Train each output's length apart from its direction (DoRA).")

    @model_validator(mode="after")
    def _all_or_some(self) -> "Lora":
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise FieldErrors([("target_modules", f"{ALL_LINEAR} already names every linear layer", f"write [{ALL_LINEAR}]")])
        return self
