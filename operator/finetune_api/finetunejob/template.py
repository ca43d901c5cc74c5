"""`spec.template`: how a dialogue becomes text."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.types import FreeObject, Prose, Spec, Word, whole

Jinja = Annotated[str, Field(min_length=1, max_length=65536)]
# What `apply_chat_template` gives a template, and the names that its environment has.
RESERVED_VARIABLES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now"}
    | {"loop", "self", "range", "namespace", "dict", "cycler", "joiner", "lipsum"}
)


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


def _in_jinja(field: str, message: str) -> Effect:
    """The field acts with chat templates in Jinja; what `auto` stands for is known when the tokenizer is."""
    return Effect(
        field=field,
        acts=lambda template: template.name in ("auto", "model", "jinja"),
        cel="!has(self.name) || self.name in ['auto', 'model', 'jinja']",
        message=message,
        remedy="remove it, or choose name: model or jinja",
    )


class TemplateSpec(Spec):
    """How a dialogue becomes text, and which part of it is learnt."""

    name: Literal["auto", "default", "no_system", "alpaca", "chatml", "plain", "model", "custom", "jinja"] = Field(
        default="auto",
        description="`auto`: `model` where the tokenizer has a chat template, else `default`. `default`: a short system sentence; "
        "`no_system`: an empty system turn (the blog's training); `alpaca`; `chatml`; `plain`: `Human:` and `Assistant:`, answers end with "
        "the token that ends a text; `model`: the tokenizer's own chat template; `custom`: `tokens` and `systemText`; `jinja`: the text in "
        "`jinja`.",
    )
    token_order: Literal["blog", "published"] = Field(
        default="blog",
        description="Order in which new tokens get ids: `blog` system, assistant, user, end; `published` system, user, assistant, end.",
    )
    masking: Literal["assistant", "last_assistant", "all", "blog"] = Field(
        default="assistant",
        description="`assistant` supervises answers and their end token; `last_assistant` the last answer of each dialogue; `all` every "
        "token; `blog` everything but user turns, with control tokens of ours.",
    )
    system_turn: bool = Field(default=True, description="Whether a system turn is rendered when the dialogue has none of its own.")
    system_text: Prose | None = Field(default=None, description="Text of that turn; absent uses the template's own.")
    tokens: ControlTokens | None = Field(default=None, description="Control tokens, for `custom`.")
    jinja: Jinja | None = Field(default=None, description="A chat template, for `jinja`: Jinja as Transformers renders it.")
    variables: FreeObject | None = Field(
        default=None, description="What the chat template sees beside the dialogue, such as `enable_thinking: false`."
    )
    max_examples_per_dialogue: Annotated[int, Field(ge=1, le=1024), BeforeValidator(whole)] = Field(
        default=8,
        description="Most examples of one dialogue by a chat template that writes an answer otherwise once the dialogue goes on, for which "
        "each answer needs an example of its own. The last answers are kept, and what is left out is counted.",
    )

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        _in_jinja("variables", "is what a chat template in Jinja sees, and this template is none"),
        _in_jinja("max_examples_per_dialogue", "bounds what a chat template in Jinja may need, and this template needs one a dialogue"),
        _not_with(
            "token_order",
            ("model", "jinja", "alpaca", "plain", "chatml"),
            "orders the ids of new control tokens, and this template adds none",
        ),
        _not_with("system_turn", ("model", "jinja"), "is decided by the model's own chat template"),
        Effect(
            field="system_text",
            acts=lambda template: template.system_turn,
            cel="!has(self.systemTurn) || self.systemTurn",
            message="is the text of a turn that systemTurn: false leaves out",
            remedy="remove it, or remove systemTurn",
        ),
    )

    @model_validator(mode="after")
    def _jinja_has_its_text(self) -> "TemplateSpec":
        if (self.jinja is not None) != (self.name == "jinja"):
            raise ValueError("jinja and name: jinja go together; set both or neither")
        return self

    @model_validator(mode="after")
    def _tokens_are_custom(self) -> "TemplateSpec":
        if (self.tokens is not None) != (self.name == "custom"):
            raise ValueError("tokens and name: custom go together; set both or neither")
        return self
