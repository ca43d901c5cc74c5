"""From a dialogue to the ids that a model is asked with, exactly as it was trained.

In: messages and the files of a model. Out: prompt ids that fit the context window, and the ids at which an answer ends. A model
of ours carries dialogue_template.json and is encoded by the trainer's own encoder, which never lets a message write a control
token; other chat models use their tokenizer's chat template. Neither torch nor weights are known here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finetune_api.errors import InvalidData, InvalidModel
from finetune_trainer.data.dialogues import Message

Encode = Callable[[Sequence[Message]], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Ids to generate from. `left_out`: how many of the oldest messages did not fit."""

    ids: list[int]
    left_out: int


class Prompter(Protocol):
    """Knows how one model is asked."""

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which an answer is over, as far as the template knows them."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the dialogue up to where the answer begins."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without control tokens."""


class TrainedPrompter:
    """A model of ours: the template that it was trained with, checked against its tokenizer."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds dialogue_template.json and the tokenizer. Raises InvalidModel when roles would be mistaken for one another."""
        from finetune_trainer.preparation.labels import Encoder
        from finetune_trainer.templates.registry import template_from_json
        from finetune_trainer.templates.tokenizer import read_tokenizer

        template = template_from_json((folder / "dialogue_template.json").read_text(encoding="utf-8"))
        self._files = read_tokenizer(folder)
        self._encoder = Encoder(self._files.tokenizer, template)

    @property
    def stop_ids(self) -> list[int]:
        """The end token, and those that only somebody else's turn begins with."""
        names = (*self._encoder.template.stop_tokens, self._files.end_of_text or "")
        ids = (self._encoder.tokenizer.token_to_id(name) for name in names)
        return [token_id for token_id in ids if token_id is not None]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """A token prefix of what training would have seen."""
        return self._encoder.encode_prompt(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Without control tokens, and without what the template writes before an answer."""
        text = str(self._encoder.tokenizer.decode(list(ids), skip_special_tokens=True))
        return text.removeprefix(self._encoder.template.answer_lead)


class ForeignPrompter:
    """Another chat model, by its tokenizer's chat template."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """`tokenizer`: from transformers. Raises InvalidModel when it has no chat template."""
        if not tokenizer.chat_template:
            raise InvalidModel(
                f"{name} has neither dialogue_template.json nor a chat template, so it is not a chat model; "
                "fine-tune it with `finetune run`, or name a chat model"
            )
        self._tokenizer = tokenizer

    @property
    def stop_ids(self) -> list[int]:
        """The tokenizer's end token; the generation config may know more."""
        return [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """As transformers encodes the rendered template."""
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        encoded = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
        return [int(token_id) for token_id in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def fitted(messages: Sequence[Message], encode: Encode, max_tokens: int) -> Prompt:
    """The dialogue in at most `max_tokens`: the oldest exchanges are left out, the system message and the last question stay.

    Raises InvalidData when these two alone are too long.

    >>> talk = [Message(role="user", content="abc"), Message(role="assistant", content="de"), Message(role="user", content="f")]
    >>> fitted(talk, lambda kept: [0] * sum(len(message.content) for message in kept), 4).left_out
    2
    """
    system = list(messages[:1]) if messages and messages[0].role == "system" else []
    rest = messages[len(system) :]
    for start in range(len(rest)):
        # A dialogue begins with a user; an answer without its question would teach the model nothing but confusion.
        if rest[start].role != "user":
            continue
        ids = encode([*system, *rest[start:]])
        if len(ids) <= max_tokens:
            return Prompt(ids=ids, left_out=start)
    raise InvalidData(f"the question is {len(ids)} tokens long with what frames it, and {max_tokens} fit; shorten it, or the system text")
