"""`spec.template`: how a dialogue becomes text."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.types import Prose, Spec, Word


class ControlTokens(Spec):
    """Tokens of a custom template; each becomes one id."""

    system: Word = Field(default="<|system|>", description="Opens a system turn.")
    user: Word = Field(default="<|user|>", description="Opens a user turn.")
    assistant: Word = Field(default="<|assistant|>", description="Opens an assistant turn.")
    end: Word = Field(default="<|end|>", description="Closes a turn.")

    @model_validator(mode="after")
    def _distinct(self) -> "ControlTokens":
        if len({self.system, self.user, self.assistant, self.end}) < 4:
            raise ValueError("two control tokens are the same; give four different ones")
        return self


def _not_with(field: str, names: tuple[str, ...], message: str) -> Effect:
    """The field acts with every template but these."""
    return Effect(
        field=field,
        acts=lambda template: template.name not in names,
        cel=f"!(has(self.name) && self.name in {[*names]})",
        message=message,
        remedy="remove it, or choose a template with control tokens of ours such as name: default",
    )


class TemplateSpec(Spec):
    """How a dialogue becomes text, and which part of it is learnt."""

    name: Literal["default", "no_system", "alpaca", "model", "custom"] = Field(
        default="default",
        description="`default`: a short system sentence; `no_system`: an empty system turn (the blog's training); `alpaca`; "
        "`model`: the tokenizer's own chat template; `custom`: `tokens` and `systemText`.",
    )
    token_order: Literal["blog", "published"] = Field(
        default="blog",
        description="Order in which new tokens get ids: `blog` system, assistant, user, end; `published` system, user, assistant, end.",
    )
    masking: Literal["assistant", "blog"] = Field(
        default="assistant", description="`assistant` supervises answers and their end token; `blog` everything but user turns."
    )
    system_turn: bool = Field(default=True, description="Whether a system turn is rendered when the dialogue has none of its own.")
    system_text: Prose | None = Field(default=None, description="Text of that turn; absent uses the template's own.")
    tokens: ControlTokens | None = Field(default=None, description="Control tokens, for `custom`.")

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        _not_with("token_order", ("model", "alpaca"), "orders the ids of new control tokens, and this template adds none"),
        _not_with("system_turn", ("model",), "is decided by the model's own chat template"),
        Effect(
            field="system_text",
            acts=lambda template: template.system_turn,
            cel="!has(self.systemTurn) || self.systemTurn",
            message="is the text of a turn that systemTurn: false leaves out",
            remedy="remove it, or remove systemTurn",
        ),
    )

    @model_validator(mode="after")
    def _tokens_are_custom(self) -> "TemplateSpec":
        if (self.tokens is not None) != (self.name == "custom"):
            raise ValueError("tokens and name: custom go together; set both or neither")
        return self
