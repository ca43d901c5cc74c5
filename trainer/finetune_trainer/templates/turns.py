"""What a template of either kind offers: the text of a dialogue, and what the ranges of its characters are.

In: the messages of a dialogue. Out: renderings, so that `preparation` encodes a text once, learns from answers and keeps what people
wrote from becoming a control token. The two kinds are in `framed` (ours) and `model` (Jinja); `registry` makes the one that a job asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from finetune_trainer.data.dialogues import Message, Role

Masking = Literal["assistant", "last_assistant", "all", "blog"]
Tools = Sequence[dict[str, Any]]


class Turn(NamedTuple):
    """A message in its frame; the dialogue's text is all of them in this order."""

    role: Role
    header: str
    content: str
    end: str
    tail: str
    lead: str = ""  # before the content of an answer, and learnt with it


class Answer(NamedTuple):
    """An assistant message in a rendered text. Positions are of characters."""

    message: int  # its position in the dialogue; -1: the template's own system turn, which `masking: blog` learns
    prompt: int  # where what the engine is given ends
    start: int  # what is learnt
    stop: int


class Written(NamedTuple):
    """What a person or a program wrote, in a rendered text."""

    start: int
    stop: int
    role: Role
    message: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A text that one example is made of."""

    text: str
    answers: tuple[Answer, ...]  # ascending, apart
    written: tuple[Written, ...]  # ascending, apart
    altered: int = 0  # messages that the template writes otherwise than they are, without white space at their ends for example
    closed: bool = False  # the last answer's end, which the template leaves out, was added
    reasoning_left_out: int = 0  # messages whose reasoning the template doesn't write


class Unrendered(Exception):
    """A template can't take a dialogue, which is one bad row: the message says why."""


class Template(Protocol):
    """What `preparation`, `chat` and the export need of a template."""

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
    def turn_tokens(self) -> frozenset[str] | None:
        """Tokens that stay text in answers, because they begin or end turns; None: all. Other roles' messages never hold a token."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before training: sentences."""

    @property
    def answer_lead(self) -> str:
        """What stands between a prompt and an answer's text, and is written by the model: often a space."""

    @property
    def answers_stand_alone(self) -> bool:
        """Whether an answer can be rendered without the question before it."""

    def turns(self, messages: Sequence[Message], generation_prompt: bool = False) -> list[Turn] | None:
        """The messages in frames that are encoded apart from what people wrote; None where a text is encoded as a whole."""

    def renderings(self, messages: Sequence[Message], tools: Tools, targets: Sequence[int]) -> list[Rendered]:
        """Texts in which each message of `targets` is an answer exactly once; one where the template allows it. Raises Unrendered."""

    def prompt(self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = True) -> Rendered:
        """What the model is given to answer `messages`. Raises Unrendered."""

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str: ...
    def chat_template(self) -> str:
        """The template in Jinja, for the tokenizer."""

    def to_json(self) -> str:
        """dialogue_template.json."""


def joined(turns: Sequence[Turn]) -> str:
    """The text of turns."""
    return "".join(f"{turn.header}{turn.lead}{turn.content}{turn.end}{turn.tail}" for turn in turns)
