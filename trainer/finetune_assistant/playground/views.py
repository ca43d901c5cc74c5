"""What a page shows: plain values, made by talks and read by pages. Models, threads and gradio are unknown here."""

from dataclasses import dataclass

from finetune_assistant.inference.chat import Answer
from finetune_trainer.data.dialogues import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model said to a question so far. `answer`: when it is whole; `failure`: why there is none."""

    text: str = ""
    answer: Answer | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question, and what was said to it, one for each voice. `before`: the messages that each had read."""

    question: str
    before: tuple[tuple[Message, ...], ...]
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One side of the page: its turns as (question, what was said). `name` is empty until the vote."""

    name: str
    turns: tuple[tuple[str, Said], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a page shows now: columns from left to right. `no_vote`: why there is nothing to vote on; None: there is."""

    columns: tuple[Column, ...]
    busy: bool
    notice: str
    no_vote: str | None
