"""How a dialogue becomes text: control tokens, headers and ends around each message.

In: the messages of a dialogue. Out: its turns as text in pieces, so that `labels` can encode what we write apart from what
people wrote; the whole text; the same as a Jinja chat template and as dialogue_template.json, which travel with the model.
A template never holds a message of the data. A model's own chat template is in `model_template`; ids and masks are in `labels`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from tokenizers import AddedToken, Tokenizer

from finetune_api.errors import InvalidModel, InvalidSpec, Problem
from finetune_api.finetunejob import ControlTokens, TemplateSpec
from finetune_trainer.dialogues import Message
from finetune_trainer.tokenizer_files import TokenizerFiles

Masking = Literal["assistant", "blog"]
Role = Literal["system", "user", "assistant"]

_SYSTEM_TEXTS = {
    "default": "You are a helpful assistant. You answer clearly and write code that works.",
    "no_system": "",
    "custom": "",
    "alpaca": "Each instruction below is followed by a response that carries it out.",
}
TEMPLATE_NAMES = (*_SYSTEM_TEXTS, "model")

# The order in which new tokens get their ids. Trained with one and decoded with the other, the roles swap.
_TOKEN_ORDERS: dict[str, tuple[str, ...]] = {
    "blog": ("system", "assistant", "user", "end"),
    "published": ("system", "user", "assistant", "end"),
}


class Frame(NamedTuple):
    """What surrounds the messages of one role. `end` is learnt with an answer, `header` and `tail` are not."""

    header: str
    end: str
    tail: str


class Turn(NamedTuple):
    """A message in its frame; the dialogue's text is all of them in this order."""

    role: Role
    header: str
    content: str
    end: str
    tail: str


class Template(Protocol):
    """What `labels`, `chat` and the export need of a template."""

    @property
    def name(self) -> str: ...
    @property
    def masking(self) -> Masking: ...
    @property
    def system_text(self) -> str | None: ...
    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Control tokens in the order in which they get ids."""

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Their ids, once `add_control_tokens` has bound them."""

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """Tokens at which an answer is over."""

    @property
    def answers_stand_alone(self) -> bool:
        """Whether an answer can be rendered without the question before it."""

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn]:
        """The messages in their frames; with a generation prompt also the header of an answer that is still to come."""

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str: ...
    def chat_template(self) -> str:
        """The template in Jinja, for the tokenizer."""

    def to_json(self) -> str:
        """dialogue_template.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedTemplate:
    """A template of ours: one frame a role. `tokens` is None for alpaca, whose headers are plain text."""

    name: str
    tokens: ControlTokens | None
    order: str
    system_text: str | None  # None: no system turn but a dialogue's own
    masking: Masking
    end_of_text: str | None = None  # alpaca's end of an answer
    token_ids: tuple[int, ...] | None = None  # of `new_tokens`

    @property
    def new_tokens(self) -> tuple[str, ...]:
        return tuple(getattr(self.tokens, role) for role in _TOKEN_ORDERS[self.order]) if self.tokens else ()

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        if self.tokens is None:
            return (self.end_of_text,) if self.end_of_text else ()
        return (self.tokens.end, self.tokens.user, self.tokens.system)

    @property
    def answers_stand_alone(self) -> bool:
        return True

    def frame(self, role: Role) -> Frame:
        if self.tokens is None:
            return _alpaca_frame(role, self.end_of_text or "")
        return Frame(header=f"{getattr(self.tokens, role)}\n", end=self.tokens.end, tail="\n")

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn]:
        """A leading system message replaces the template's system text."""
        turns = [self._turn(message.role, message.content) for message in messages]
        if self.system_text is not None and (not messages or messages[0].role != "system"):
            turns.insert(0, self._turn("system", self.system_text))
        if generation_prompt:
            turns.append(Turn("assistant", self.frame("assistant").header, "", "", ""))
        return turns

    def _turn(self, role: Role, content: str) -> Turn:
        header, end, tail = self.frame(role)
        return Turn(role, header, content, end, tail)

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The training text, or what stands before an answer. The second is a prefix of the first, in text and in tokens."""
        return joined(self.turns(messages, generation_prompt))

    def chat_template(self) -> str:
        return _jinja({role: self.frame(role) for role in ("system", "user", "assistant")}, self.system_text)

    def to_json(self) -> str:
        value = {
            "version": 1,
            "name": self.name,
            "tokens": self.tokens.model_dump() if self.tokens else None,
            "tokenOrder": self.order,
            "tokenIds": dict(zip(self.new_tokens, self.token_ids, strict=True)) if self.token_ids is not None else None,
            "systemText": self.system_text,
            "masking": self.masking,
            "endOfText": self.end_of_text,
        }
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def joined(turns: Sequence[Turn]) -> str:
    """The text of turns."""
    return "".join(f"{turn.header}{turn.content}{turn.end}{turn.tail}" for turn in turns)


def template_from_spec(spec: TemplateSpec, files: TokenizerFiles) -> Template:
    """The template that a job asks for. Raises InvalidSpec, or InvalidModel if the tokenizer lacks what it needs."""
    if spec.name == "model":
        from finetune_trainer.model_template import model_template

        return model_template(spec, files)
    if spec.name not in _SYSTEM_TEXTS:
        raise InvalidSpec([Problem("spec.template.name", f"{spec.name} is unknown", f"use one of {', '.join(TEMPLATE_NAMES)}")])
    alpaca = spec.name == "alpaca"
    if alpaca and files.end_of_text is None:
        raise InvalidModel(f"{files.path}: template alpaca needs a token that ends a text, and the tokenizer names none; set eos_token")
    text = spec.system_text if spec.system_text is not None else _SYSTEM_TEXTS[spec.name]
    return FramedTemplate(
        name=spec.name,
        tokens=None if alpaca else spec.tokens or ControlTokens(),
        order=spec.token_order,
        # An alpaca prompt without a preamble has no empty lines in its place.
        system_text=None if not spec.system_turn or (alpaca and not text) else text,
        masking=spec.masking,
        end_of_text=files.end_of_text if alpaca else None,
    )


def template_from_json(text: str) -> Template:
    """The template that `to_json` wrote. Raises InvalidModel."""
    try:
        value = json.loads(text)
        if value["version"] != 1:
            raise InvalidModel(
                f"dialogue_template.json has version {value['version']}, and this program reads 1; use the one that wrote it"
            )
        return _from_value(value)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"dialogue_template.json is damaged ({type(error).__name__}: {error}); export the model again") from None


def _from_value(value: dict[str, Any]) -> Template:
    if value["name"] == "model":
        from finetune_trainer.model_template import ModelTemplate

        return ModelTemplate.from_value(value)
    template = FramedTemplate(
        name=value["name"],
        tokens=None if value["tokens"] is None else ControlTokens(**value["tokens"]),
        order=value["tokenOrder"],
        system_text=value["systemText"],
        masking=value["masking"],
        end_of_text=value["endOfText"],
    )
    ids = value["tokenIds"]
    return template if ids is None else replace(template, token_ids=tuple(ids[token] for token in template.new_tokens))


def add_control_tokens(tokenizer: Tokenizer, template: Template) -> Template:
    """Give each control token one id, in the template's order; those that the tokenizer holds keep theirs. Changes `tokenizer`.

    Returns the template with the ids. If it has ids already, it comes from a trained model, and they must be the same: raises InvalidModel.
    """
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in template.new_tokens])
    ids: tuple[int, ...] = tuple(map(tokenizer.token_to_id, template.new_tokens))  # type: ignore[arg-type]  # all are there now
    for token, token_id in zip(template.new_tokens, ids, strict=True):
        if tokenizer.encode(token, add_special_tokens=False).ids != [token_id]:
            raise InvalidModel(f"control token {token} does not become one token of this tokenizer; choose another text for it")
    if template.token_ids is not None and template.token_ids != ids:
        raise InvalidModel(
            f"the model was trained with {_pairs(template.new_tokens, template.token_ids)}, and this tokenizer has "
            f"{_pairs(template.new_tokens, ids)}; roles would be mistaken for one another: use the tokenizer exported with the model"
        )
    return replace(template, token_ids=ids) if isinstance(template, FramedTemplate) else template


def _pairs(tokens: Sequence[str], ids: Sequence[int]) -> str:
    return ", ".join(f"{token} = {token_id}" for token, token_id in zip(tokens, ids, strict=True))


def _alpaca_frame(role: Role, end_of_text: str) -> Frame:
    match role:
        case "system":
            return Frame("", "", "\n\n")
        case "user":
            return Frame("### Instruction:\n", "", "\n\n")
        case "assistant":
            return Frame("### Response:\n", end_of_text, "\n\n")


def _jinja(frames: dict[Role, Frame], system_text: str | None) -> str:
    """The frames as a Jinja template; `generation` marks what is learnt of an answer, for transformers' assistant masks."""
    turns = "messages"
    if system_text is not None:
        own = f"[{{'role': 'system', 'content': {_literal(system_text)}}}]"
        turns = f"messages if messages and messages[0]['role'] == 'system' else {own} + messages"
    system, user, assistant = frames["system"], frames["user"], frames["assistant"]
    lines = [
        f"{{%- set turns = {turns} -%}}",
        "{%- for turn in turns -%}",
        "  {%- if turn['role'] == 'user' -%}",
        f"    {{{{- {_literal(user.header)} + turn['content'] + {_literal(user.end + user.tail)} -}}}}",
        "  {%- elif turn['role'] == 'assistant' -%}",
        f"    {{{{- {_literal(assistant.header)} -}}}}",
        "    {%- generation -%}",
        f"      {{{{- turn['content'] + {_literal(assistant.end)} -}}}}",
        "    {%- endgeneration -%}",
        f"    {{{{- {_literal(assistant.tail)} -}}}}",
        "  {%- elif turn['role'] == 'system' and loop.first -%}",
        f"    {{{{- {_literal(system.header)} + turn['content'] + {_literal(system.end + system.tail)} -}}}}",
        "  {%- else -%}",
        "    {{- raise_exception('roles are user and assistant, and system for the first message: got ' + turn['role']) -}}",
        "  {%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        f"  {{{{- {_literal(assistant.header)} -}}}}",
        "{%- endif -%}",
    ]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """A Jinja string: JSON's escapes are a part of Python's, which Jinja takes; characters beyond ASCII stay themselves."""
    return json.dumps(text, ensure_ascii=False)
