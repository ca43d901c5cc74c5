"""How a dialogue becomes text: control tokens, headers and ends around each message.

In: the messages of a dialogue. Out: its turns as text in pieces, so that `labels` can encode what we write apart from what
people wrote; the whole text; the same as a Jinja chat template and as dialogue_template.json, which travel with the model.
A template never holds a message of the data. A model's own chat template is in `model`; ids and masks are in `labels`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finetune_api.finetunejob import ControlTokens
from finetune_trainer.data.dialogues import Message, Role
from finetune_trainer.templates.turns import Answer, Masking, Rendered, Tools, Turn, Unrendered, Written, joined

# None: no system turn but a dialogue's own.
SYSTEM_TEXTS: dict[str, str | None] = {
    "default": "You are a helpful assistant. You answer clearly and write code that works.",
    "no_system": "",
    "custom": "",
    "alpaca": "Each instruction below is followed by a response that carries it out.",
    "chatml": None,
    "plain": None,
}
# Their headers are plain text, and their answers end with the token that ends a text.
PLAIN_NAMES = ("alpaca", "plain")
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

# The order in which new tokens get their ids. Trained with one and decoded with the other, the roles swap.
_TOKEN_ORDERS: dict[str, tuple[str, ...]] = {
    "blog": ("system", "assistant", "user", "end"),
    "published": ("system", "user", "assistant", "end"),
}


class Frame(NamedTuple):
    """What surrounds the messages of one role. `lead` and `end` are learnt with an answer, `header` and `tail` are not."""

    header: str
    end: str
    tail: str
    lead: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedTemplate:
    """A template of ours: one frame a role. `tokens` is None for chatml, whose tokens are its own, and where headers are plain text."""

    name: str
    tokens: ControlTokens | None
    order: str
    system_text: str | None  # None: no system turn but a dialogue's own
    masking: Masking
    end_of_text: str | None = None  # the end of an answer of alpaca and plain
    begin: str = ""  # before every text: tokens that the tokenizer adds by itself
    token_ids: tuple[int, ...] | None = None  # of `new_tokens`

    @property
    def new_tokens(self) -> tuple[str, ...]:
        if self.name == "chatml":
            return _CHATML_TOKENS
        return tuple(getattr(self.tokens, role) for role in _TOKEN_ORDERS[self.order]) if self.tokens else ()

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        if self.name == "chatml":
            return _CHATML_TOKENS[::-1]
        if self.tokens is None:
            return (self.end_of_text,) if self.end_of_text else ()
        return (self.tokens.end, self.tokens.user, self.tokens.system)

    @property
    def turn_tokens(self) -> frozenset[str] | None:
        """None: all tokens. Our templates keep every text of a message as text."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.begin:
            return ()
        return (f"each text begins with {self.begin}, which this tokenizer adds to every text",)

    @property
    def answer_lead(self) -> str:
        return self.frame("assistant").lead

    @property
    def answers_stand_alone(self) -> bool:
        return True

    def frame(self, role: Role) -> Frame:
        if self.name == "chatml":
            return Frame(header=f"<|im_start|>{role}\n", end="<|im_end|>", tail="\n")
        if self.name == "plain":
            return _plain_frame(role, self.end_of_text or "")
        if self.tokens is None:
            return _alpaca_frame(role, self.end_of_text or "")
        return Frame(header=f"{getattr(self.tokens, role)}\n", end=self.tokens.end, tail="\n")

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn]:
        """A leading system message replaces the template's system text. `begin` belongs to the first header. Raises Unrendered."""
        frames = {role: self._frame(role) for role in {message.role for message in messages}}
        turns = [_turn(message.role, message.content, frames[message.role]) for message in messages]
        if self.system_text is not None and (not messages or messages[0].role != "system"):
            turns.insert(0, _turn("system", self.system_text, self.frame("system")))
        if generation_prompt:
            turns.append(Turn("assistant", self.frame("assistant").header, "", "", ""))
        if self.begin and turns:
            turns[0] = turns[0]._replace(header=self.begin + turns[0].header)
        return turns

    def _frame(self, role: Role) -> Frame:
        if role == "tool":
            raise Unrendered(f"template {self.name} has no tool calls; one of the model's own may have: set spec.template.name: model")
        return self.frame(role)

    def renderings(self, messages: Sequence[Message], tools: Tools, targets: Sequence[int]) -> list[Rendered]:
        """One text. Raises Unrendered."""
        if tools or any(message.tool_calls for message in messages):
            raise Unrendered(f"template {self.name} has no tool calls; one of the model's own may have: set spec.template.name: model")
        return [self._rendered(self.turns(messages), messages)]

    def prompt(self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = True) -> Rendered:
        """The dialogue, and the header of an answer. Raises Unrendered."""
        return self._rendered(self.turns(messages, generation_prompt), messages)

    def _rendered(self, turns: Sequence[Turn], messages: Sequence[Message]) -> Rendered:
        answers, written = [], []
        inserted = int(bool(turns) and turns[0].role == "system" and (not messages or messages[0].role != "system"))
        position = 0
        for number, turn in enumerate(turns):
            prompt = position + len(turn.header)
            content = prompt + len(turn.lead)
            stop = content + len(turn.content) + len(turn.end)
            message = number - inserted
            if message < len(messages):
                written.append(Written(content, content + len(turn.content), turn.role, message))
            if self.masking == "blog" and turn.role in ("system", "assistant"):
                answers.append(Answer(message if turn.role == "assistant" else -1, prompt, position, stop + len(turn.tail)))
            elif turn.role == "assistant" and turn.end:
                answers.append(Answer(message, prompt, prompt, stop))
            position = stop + len(turn.tail)
        return Rendered(
            text=joined(turns),
            answers=tuple(answers),
            written=tuple(written),
            reasoning_left_out=sum(message.reasoning is not None for message in messages),
        )

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The training text, or what stands before an answer. The second is a prefix of the first, in text and in tokens."""
        return joined(self.turns(messages, generation_prompt))

    def chat_template(self) -> str:
        return _jinja({role: self.frame(role) for role in ("system", "user", "assistant")}, self.system_text, self.begin)

    def to_json(self) -> str:
        value = {
            "version": 2,
            "name": self.name,
            "tokens": self.tokens.model_dump() if self.tokens else None,
            "tokenOrder": self.order,
            "tokenIds": dict(zip(self.new_tokens, self.token_ids, strict=True)) if self.token_ids is not None else None,
            "systemText": self.system_text,
            "masking": self.masking,
            "endOfText": self.end_of_text,
            "begin": self.begin,
        }
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _turn(role: Role, content: str, frame: Frame) -> Turn:
    return Turn(role, frame.header, content, frame.end, frame.tail, frame.lead)


def _alpaca_frame(role: Role, end_of_text: str) -> Frame:
    match role:
        case "system":
            return Frame("", "", "\n\n")
        case "user":
            return Frame("### Instruction:\n", "", "\n\n")
        case "assistant":
            return Frame("### Response:\n", end_of_text, "\n\n")
        case "tool":
            raise AssertionError("our templates have no turn of a tool; such a dialogue is refused before it is rendered")


def _plain_frame(role: Role, end_of_text: str) -> Frame:
    """The blog's first way: a dialogue as people write one down. The space before an answer is the answer's, as tokenizers have it."""
    match role:
        case "system":
            return Frame("", "", "\n\n")
        case "user":
            return Frame("Human: ", "", "\n\n")
        case "assistant":
            return Frame("Assistant:", end_of_text, "\n\n", lead=" ")
        case "tool":
            raise AssertionError("such a dialogue is refused before it is rendered")


def _jinja(frames: dict[Role, Frame], system_text: str | None, begin: str) -> str:
    """The frames as a Jinja template; `generation` marks what is learnt of an answer, for transformers' assistant masks.

    The marks are spelt without dashes: engines that don't know them take out exactly this text. What is around them trims by itself.
    """
    turns = "messages"
    if system_text is not None:
        own = f"[{{'role': 'system', 'content': {_literal(system_text)}}}]"
        turns = f"messages if messages and messages[0]['role'] == 'system' else {own} + messages"
    lead = f"{_literal(frames['assistant'].lead)} + " if frames["assistant"].lead else ""
    system, user, assistant = frames["system"], frames["user"], frames["assistant"]
    lines = [
        *([f"{{{{- {_literal(begin)} -}}}}"] if begin else []),
        f"{{%- set turns = {turns} -%}}",
        "{%- for turn in turns -%}",
        "  {%- if turn['role'] == 'user' -%}",
        f"    {{{{- {_literal(user.header)} + turn['content'] + {_literal(user.end + user.tail)} -}}}}",
        "  {%- elif turn['role'] == 'assistant' -%}",
        f"    {{{{- {_literal(assistant.header)} -}}}}",
        "    {% generation %}",
        f"      {{{{- {lead}turn['content'] + {_literal(assistant.end)} -}}}}",
        "    {% endgeneration %}",
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
