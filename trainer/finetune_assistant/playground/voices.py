"""Models that take part in a playground, and how they are asked.

In: loaded models. Out: voices, each of which begins dialogues. Browsers and sides are unknown here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune_assistant.inference.chat import Answer, Chat, OnText
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.inference.own_thread import OwnThread
from finetune_assistant.inference.sampling import AS_THE_MODEL, Sampling
from finetune_trainer.data.dialogues import Message


class Dialogue(Protocol):
    """What `finetune_assistant.inference.chat.Chat` does, as far as a playground needs it."""

    messages: list[Message]

    def ask(self, question: str, on_text: OnText = ...) -> Answer:
        """KeyboardInterrupt out of `on_text` ends the answer."""

    def go_on_with(self, messages: Sequence[Message]) -> None:
        """Another dialogue in place of this one."""

    def set_system(self, text: str | None) -> None:
        """Another system text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A model that takes part. `begin` makes a new dialogue with it, from a system text (None: its own) and how answers are drawn."""

    name: str
    begin: Callable[[str | None, Sampling], Dialogue]


def voice_of(loaded: LoadedModel, name: str, thread: OwnThread) -> Voice:
    """A model that was loaded in `thread`, under the name that the page and votes call it by."""
    return Voice(name=name, begin=lambda system, sampling: Chat.of(loaded, system=system, sampling=sampling, thread=thread))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a question is asked. `system` None: the template's own text."""

    system: str | None = None
    sampling: Sampling = AS_THE_MODEL


NOTHING_ASKED = Settings()
