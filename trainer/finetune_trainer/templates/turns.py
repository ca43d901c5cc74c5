"""What a template of either kind offers: the messages of a dialogue as turns, the pieces of text that `labels` encodes.

In: the messages of a dialogue. Out: its turns, so that what a template writes can be encoded apart from what people wrote.
The two kinds are in `framed` (ours) and `model` (the tokenizer's own); `registry` makes the one that a job asks for.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from finetune_trainer.data.dialogues import Message, Role

Masking = Literal["assistant", "blog"]


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


def joined(turns: Sequence[Turn]) -> str:
    """The text of turns."""
    return "".join(f"{turn.header}{turn.content}{turn.end}{turn.tail}" for turn in turns)
