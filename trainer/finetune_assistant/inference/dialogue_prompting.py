r"""Asking a base model that was never fine-tuned: a text of dialogues with an assistant, in which the user's is the last.

In: a prompt file and messages. Out: ids, and the texts at which an answer ends. The form is the one in which such prompts were published: a
description, then dialogues between lines of `-----`, turns that begin with `Human:` and `Assistant:`. Two files of ours are in `prompts/`.
Frames are plain text here, so a question may imitate one; control tokens in it stay text. Neither torch nor weights are known here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_api.errors import InvalidData, InvalidModel
from finetune_assistant import prompts
from finetune_assistant.inference.prompting import tokenizer_files
from finetune_trainer.data.dialogues import Message, Role

if TYPE_CHECKING:
    from finetune_trainer.templates.turns import Written

OURS: Final = ("general", "coding")
STOP_TEXTS: Final = ("\nHuman:", "-----")
SEPARATOR: Final = "-----"
_FOLDER: Final = Path(prompts.__file__).parent
# For base models whose window has no room for an answer behind the dialogues of `general`.
SHORT: Final = _FOLDER / "short.txt"
_LINE: Final = re.compile(r"^-{5,}[ \t]*$", re.MULTILINE)
_TURN: Final = re.compile(r"^(Human|Assistant):", re.MULTILINE)
_NAMES: Final[dict[Role, str]] = {"user": "Human:", "assistant": "Assistant:"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotPrompt:
    """A prompt file. `description` is what stands before the first line of dashes, `examples` the dialogues from there on."""

    name: str
    description: str
    examples: str
    gap: str  # between turns: an empty line, or none

    def preamble(self, system: str | None = None) -> str:
        """What stands before the talk. `system` takes the description's place."""
        return (self.description if system is None else f"{system}\n\n") + self.examples

    def text(self, messages: Sequence[Message]) -> tuple[str, list["Written"]]:
        """The whole prompt, and what of it is not a frame of the talk. A system message replaces the description."""
        from finetune_trainer.templates.turns import Written

        system = messages[0].content.strip() if messages and messages[0].role == "system" else None
        text = self.preamble(system)
        written = [Written(0, len(text), "system", -1)]
        for position, message in enumerate(messages):
            if message.role == "system":
                continue
            if message.role not in _NAMES:
                raise InvalidData(f"message {position + 1} is of role {message.role}; dialogue prompting knows system, user and assistant")
            text += f"{self.gap}{_NAMES[message.role]} "
            content = message.content.strip()
            written.append(Written(len(text), len(text) + len(content), message.role, position))
            text += content
        return f"{text}{self.gap}{_NAMES['assistant']}", written


def read_prompt(name: str) -> FewShotPrompt:
    """`general`, `coding`, or the user's file. Raises InvalidData when it isn't of the form."""
    path = _FOLDER / f"{name}.txt" if name in OURS else Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidData(f"--prompt {name}: there is no such file; give one, or {' or '.join(OURS)}") from None
    except UnicodeDecodeError:
        raise InvalidData(f"--prompt {name}: not UTF-8; convert it to UTF-8") from None
    except OSError as error:
        raise InvalidData(f"--prompt {name}: can't be read ({error.strerror}); make it readable for this user") from None
    return parse_prompt(text, name)


def parse_prompt(text: str, name: str) -> FewShotPrompt:
    r"""A text of the published form. Raises InvalidData when it isn't one.

    >>> parse_prompt("A talk.\n-----\nHuman: Hi\n\nAssistant: Hello.\n-----", "x").examples
    '-----\nHuman: Hi\n\nAssistant: Hello.\n-----'
    """
    text = re.sub(r"\n(Human|Assistant):\s*\Z", "\n", text.replace("\r\n", "\n")).strip()  # without a turn left open for a question
    if not all(re.search(rf"^{turn}", text, re.MULTILINE) for turn in _NAMES.values()):
        raise InvalidData(
            f"--prompt {name}: no dialogue is in it; write a description, a line of {SEPARATOR}, and lines that begin with "
            "Human: and Assistant:"
        )
    begins = min(found.start() for found in (_LINE.search(text), _TURN.search(text)) if found)
    description, examples = text[:begins], text[begins:]
    gap = "\n\n" if re.search(r"\n\n(Human|Assistant):", examples) else "\n"
    if not _LINE.fullmatch(examples.rsplit("\n", 1)[-1]):
        examples += f"{gap}{SEPARATOR}"
    return FewShotPrompt(name=name, description=description, examples=examples, gap=gap)


class DialoguePrompter:
    """A base model, by a prompt file."""

    stop_texts: tuple[str, ...] = STOP_TEXTS
    answer_lead = " "

    def __init__(self, tokenizer: Any, prompt: FewShotPrompt, name: str) -> None:
        """`tokenizer`: from transformers. `name` is the model's, for messages. Raises InvalidModel for one without tokenizer.json."""
        from finetune_trainer.preparation.texts import TextEncoder

        files = tokenizer_files(tokenizer, name)
        if files is None:
            raise InvalidModel(f"{name}: its tokenizer isn't a fast one, which dialogue prompting needs; save it with tokenizer.json")
        self.prompt = prompt
        self._files = files
        self._encoder = TextEncoder(files.tokenizer, files.control_tokens(), None, None)
        end = None if files.end_of_text is None else files.tokenizer.token_to_id(files.end_of_text)
        self.stop_ids = [] if end is None else [end]

    @cached_property
    def preamble_tokens(self) -> int:
        """What each question costs before a word of the talk."""
        return len(self._ids(self.prompt.preamble(), ()))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt file, the talk, and an open turn of the assistant."""
        return self._ids(*self.prompt.text(messages))

    def decode(self, ids: Sequence[int]) -> str:
        """Without control tokens."""
        return str(self._files.tokenizer.decode(list(ids), skip_special_tokens=True))

    def tuned_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the same talk for this model once it is fine-tuned with our default template."""
        return len(self._tuned.encode_prompt(messages))

    @cached_property
    def _tuned(self) -> Any:
        from tokenizers import Tokenizer

        from finetune_api.finetunejob import TemplateSpec
        from finetune_trainer.preparation.labels import Encoder
        from finetune_trainer.templates.registry import template_from_spec

        tokenizer = Tokenizer.from_str(self._files.tokenizer.to_str())  # it gets control tokens
        return Encoder(tokenizer, template_from_spec(TemplateSpec(name="default"), self._files))

    def check_window(self, fits: int) -> None:
        """Raises InvalidData when the prompt file alone leaves no room for a question. `fits`: tokens of the window, less the answer's."""
        if self.preamble_tokens >= fits:
            raise InvalidData(
                f"--prompt {self.prompt.name} is {self.preamble_tokens} tokens long, and {fits} fit beside the answer; "
                "take a shorter prompt file, or a smaller --max-new-tokens"
            )

    def _ids(self, text: str, written: Sequence["Written"]) -> list[int]:
        from finetune_trainer.templates.turns import Rendered, Unrendered

        begin = self._files.begin
        shifted = tuple(each._replace(start=len(begin) + each.start, stop=len(begin) + each.stop) for each in written)
        [encoded] = self._encoder.encode([Rendered(text=begin + text, answers=(), written=shifted)])
        if isinstance(encoded, Unrendered):
            raise InvalidData(str(encoded))
        return list(encoded.ids)
