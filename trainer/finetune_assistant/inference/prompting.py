"""From a dialogue to the ids that a model is asked with, exactly as it was trained.

In: messages and the files of a model. Out: prompt ids that fit the context window, and the ids at which an answer ends. A model
of ours carries dialogue_template.json, other chat models a chat template in their tokenizer. Both are encoded by the trainer's own encoder,
which never lets a message write a control token. Base models have neither: `dialogue_prompting`. Neither torch nor weights are known here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finetune_api.errors import InvalidData, InvalidModel, InvalidSpec
from finetune_trainer.data.dialogues import Message

if TYPE_CHECKING:
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.tokenizer import TokenizerFiles

Encode = Callable[[Sequence[Message]], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Ids to generate from, and the messages in them. `left_out`: how many of the oldest messages did not fit."""

    ids: list[int]
    messages: tuple[Message, ...]
    left_out: int


class Prompter(Protocol):
    """Knows how one model is asked."""

    @property
    def stop_ids(self) -> list[int]:
        """Ids at which an answer is over, as far as the template knows them."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts at which an answer is over, where no token ends one."""

    @property
    def answer_lead(self) -> str:
        """What stands between a prompt and an answer's text, and is written by the model."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the dialogue up to where the answer begins. Raises InvalidData where the template can't take it."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without control tokens."""


class TrainedPrompter:
    """A model of ours: the template that it was trained with, checked against its tokenizer."""

    stop_texts: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """`folder` holds dialogue_template.json and the tokenizer. Raises InvalidModel when roles would be mistaken for one another."""
        from finetune_trainer.preparation.labels import Encoder
        from finetune_trainer.templates.registry import template_from_json
        from finetune_trainer.templates.tokenizer import read_tokenizer

        template = template_from_json((folder / "dialogue_template.json").read_text(encoding="utf-8"))
        files = read_tokenizer(folder)
        self._encoder = Encoder(files.tokenizer, template)
        self.stop_ids = _stop_ids(self._encoder, files)
        self.answer_lead = self._encoder.template.answer_lead

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """A token prefix of what training would have seen."""
        return self._encoder.encode_prompt(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Without control tokens."""
        return str(self._encoder.tokenizer.decode(list(ids), skip_special_tokens=True))


class ForeignPrompter:
    """Another chat model, by its tokenizer's chat template."""

    stop_texts: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any, name: str) -> None:
        """`tokenizer`: from transformers. Raises InvalidModel when it has no chat template."""
        if not tokenizer.chat_template:
            raise InvalidModel(
                f"{name} has neither dialogue_template.json nor a chat template, so it is not a chat model; "
                "fine-tune it with `finetune run`, or name a chat model"
            )
        self._tokenizer = tokenizer
        self._encoder = _encoder_of(tokenizer, name)
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ends = self._encoder.template.stop_tokens if self._encoder is not None else ()
        ids = [tokenizer.convert_tokens_to_ids(token) for token in ends]
        self.stop_ids: list[int] = list(dict.fromkeys([*own, *(token_id for token_id in ids if token_id is not None)]))
        self.answer_lead = ""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """As transformers encodes the rendered template, but that control tokens in messages stay text."""
        if self._encoder is not None:
            return self._encoder.encode_prompt(messages)
        return self._as_transformers(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _as_transformers(self, messages: Sequence[Message]) -> list[int]:
        """For templates that our encoder can't follow: transformers would read a control token in a message as one, so it is refused."""
        for number, message in enumerate(messages, start=1):
            if token := next((token for token in self._tokenizer.all_special_tokens if token in message.content), None):
                raise InvalidData(f"message {number} holds {token}, which this model would take for the end of a turn; write it otherwise")
        from jinja2 import TemplateError

        conversation = [{"role": message.role, "content": message.content} for message in messages]
        try:
            encoded = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
        except TemplateError as error:
            raise InvalidData(f"the template can't take this dialogue: {error}") from None
        return [int(token_id) for token_id in encoded["input_ids"]]


def tokenizer_files(tokenizer: Any, name: str) -> "TokenizerFiles | None":
    """A tokenizer of transformers in the trainer's form; None for one that the tokenizers library didn't make."""
    from tokenizers import Tokenizer

    from finetune_trainer.templates.tokenizer import TokenizerFiles

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    templates = tokenizer.chat_template
    return TokenizerFiles(
        path=Path(name),
        tokenizer=copy,
        named_tokens={role: str(token) for role, token in tokenizer.special_tokens_map.items() if role.endswith("_token")},
        chat_template=templates.get("default") if isinstance(templates, dict) else templates,
        digest="",
    )


def _encoder_of(tokenizer: Any, name: str) -> "Encoder | None":
    """The trainer's encoder for a tokenizer's own template; None where the template does what that encoder can't follow."""
    from finetune_api.finetunejob import TemplateSpec
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.registry import template_from_spec

    files = tokenizer_files(tokenizer, name)
    if files is None or files.chat_template is None:
        return None
    try:
        return Encoder(files.tokenizer, template_from_spec(TemplateSpec(name="model"), files))
    except (InvalidModel, InvalidSpec):
        return None


def _stop_ids(encoder: "Encoder", files: "TokenizerFiles") -> list[int]:
    """The end token, those that only somebody else's turn begins with, and the end of a text."""
    names = (*encoder.template.stop_tokens, files.end_of_text or "")
    ids = (encoder.tokenizer.token_to_id(name) for name in names)
    return [token_id for token_id in ids if token_id is not None]


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
        kept = (*system, *rest[start:])
        ids = encode(kept)
        if len(ids) <= max_tokens:
            return Prompt(ids=ids, messages=kept, left_out=start)
    raise InvalidData(f"the question is {len(ids)} tokens long with what frames it, and {max_tokens} fit; shorten it, or the system text")
