"""`template: model`: the chat template that came with a model's tokenizer.

In: a Jinja text that somebody else wrote. Out: the same turns as our own templates give. Where a message begins and ends is
found by rendering: once with marks in the place of contents, and prefixes of the dialogue. A template whose prompt is not a
prefix of its training text is refused, because what was learnt would never be asked for. transformers is imported when the
first text is rendered, and nowhere else in preparation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.errors import InvalidModel, InvalidSpec, Problem
from finetune_api.finetunejob import TemplateSpec
from finetune_trainer.data.dialogues import Message, Role
from finetune_trainer.templates.tokenizer import TokenizerFiles
from finetune_trainer.templates.turns import Masking, Turn, joined

_REMEDY = "use one of our templates, for example default"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frames:
    """The text around contents, for one sequence of roles."""

    between: tuple[str, ...]  # before each content, and after the last one
    ends: tuple[tuple[str, str], ...]  # after each content: the end that is learnt with an answer, white space after it
    prompt: str  # after the last content, when an answer is to come


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTemplate:
    """Renders like `tokenizer.apply_chat_template`, and refuses what it can't take apart."""

    source: str  # the Jinja text
    named_tokens: dict[str, str]  # bos_token, eos_token, ...
    system_text: str | None  # None: whatever the template does without a system message
    masking: Masking = "assistant"
    _frames: dict[tuple[Role, ...], _Frames] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return "model"

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """None: the model knows its tokens."""
        return ()

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        return None

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """What closes an answer."""
        roles: tuple[Role, ...] = ("user", "assistant")
        return (self._frames_of(roles).ends[-1][0],)

    @property
    def answers_stand_alone(self) -> bool:
        """Many templates refuse a dialogue that begins with an answer."""
        return False

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn]:
        """Raises InvalidModel when the template changes contents, or renders a prefix of the dialogue differently."""
        messages = self._with_system(messages)
        frames = self._frames_of(tuple(message.role for message in messages))
        text = self._text(messages)
        for contents in ([message.content for message in messages], [message.content.strip() for message in messages]):
            turns = _turns(messages, contents, frames)
            if joined(turns) == text:
                return _prompt(turns, frames) if generation_prompt else turns
        raise InvalidModel(f"the model's chat template changes the text of messages, so what it learns is not what it is asked; {_REMEDY}")

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        return joined(self.turns(messages, generation_prompt))

    def chat_template(self) -> str:
        """As it came."""
        return self.source

    def to_json(self) -> str:
        value = {
            "version": 1,
            "name": "model",
            "chatTemplate": self.source,
            "namedTokens": self.named_tokens,
            "systemText": self.system_text,
            "masking": self.masking,
        }
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> "ModelTemplate":
        """The template of a parsed dialogue_template.json."""
        source, named_tokens = value["chatTemplate"], value["namedTokens"]
        return cls(source=source, named_tokens=named_tokens, system_text=value["systemText"], masking=value["masking"])

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if self.system_text is None or (messages and messages[0].role == "system"):
            return list(messages)
        return [Message(role="system", content=self.system_text), *messages]

    def _frames_of(self, roles: tuple[Role, ...]) -> _Frames:
        if roles not in self._frames:
            self._frames[roles] = self._find_frames(roles)
        return self._frames[roles]

    def _find_frames(self, roles: tuple[Role, ...]) -> _Frames:
        """Render marks instead of contents and look where they end up."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        messages = [Message(role=role, content=mark) for role, mark in zip(roles, marks, strict=True)]
        whole = self._text(messages)
        between = _split(whole, marks)
        ends = []
        for index, (role, mark) in enumerate(zip(roles, marks, strict=True)):
            if role != "assistant":
                ends.append(("", ""))
                continue
            before = self._text(messages[:index], generation_prompt=True)
            until = self._text(messages[: index + 1])
            if not whole.startswith(before + mark) or not whole.startswith(until):
                raise InvalidModel(f"the model's chat template renders a dialogue's beginning differently when it goes on; {_REMEDY}")
            ends.append(_end(until[len(before) + len(mark) :]))
        prompt = self._text(messages, generation_prompt=True)
        return _Frames(between=between, ends=tuple(ends), prompt=_split(prompt, marks)[-1])

    def _text(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The template's own text, from transformers' sandboxed renderer."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered, _ = render_jinja_template(
                conversations=[conversation], chat_template=self.source, add_generation_prompt=generation_prompt, **self.named_tokens
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise InvalidModel(f"the model's chat template refuses a dialogue ({error}); {_REMEDY}") from None
        return str(rendered[0])


def model_template(spec: TemplateSpec, files: TokenizerFiles) -> ModelTemplate:
    """The tokenizer's own template, tried on a dialogue of two exchanges. Raises InvalidModel or InvalidSpec."""
    if files.chat_template is None:
        raise InvalidModel(f"{files.path}: the tokenizer has no chat_template, which template model needs; {_REMEDY}")
    if spec.masking == "blog":
        problem = Problem(
            "spec.template.masking", "blog is defined by control tokens of ours, and template model has none", "use assistant"
        )
        raise InvalidSpec([problem])
    text = spec.system_text if spec.system_turn else None
    template = ModelTemplate(source=files.chat_template, named_tokens=files.named_tokens, system_text=text)
    exchange = [Message(role="user", content="question"), Message(role="assistant", content="answer")]
    template.turns(exchange * 2, generation_prompt=True)
    return template


def _split(text: str, marks: Sequence[str]) -> tuple[str, ...]:
    """The text before each mark and after the last one; each mark must be there once, in order."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise InvalidModel(f"the model's chat template leaves out, repeats or reorders messages; {_REMEDY}")
        pieces.append(before)
    return (*pieces, text)


def _end(closing: str) -> tuple[str, str]:
    """What closes an answer, and the white space after it, which is not learnt."""
    end = closing.rstrip()
    if not end:
        raise InvalidModel(f"the model's chat template closes an answer with nothing, so the model would never stop; {_REMEDY}")
    return end, closing[len(end) :]


def _turns(messages: Sequence[Message], contents: Sequence[str], frames: _Frames) -> list[Turn]:
    """What follows an end up to the next content is that one's header; after the last content, it is the tail."""
    turns: list[Turn] = []
    closed = ""
    for index, (message, content) in enumerate(zip(messages, contents, strict=True)):
        end, tail = frames.ends[index]
        turns.append(Turn(message.role, frames.between[index][len(closed) :], content, end, tail))
        closed = end + tail
    rest = frames.between[-1][len(closed) :]
    return [*turns[:-1], turns[-1]._replace(tail=turns[-1].tail + rest)] if turns else turns


def _prompt(turns: list[Turn], frames: _Frames) -> list[Turn]:
    """The turns, open at the end, and the header of the answer to come."""
    if not turns:
        return [Turn("assistant", frames.prompt, "", "", "")]
    end, tail = frames.ends[-1]
    header = frames.prompt[len(end + tail) :]
    return [*turns[:-1], turns[-1]._replace(end=end, tail=tail), Turn("assistant", header, "", "", "")]
