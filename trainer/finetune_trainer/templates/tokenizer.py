"""A tokenizer as files: `tokenizer.json` and what transformers keeps beside it.

In: a model folder, or one tokenizers JSON file. Out: a `TokenizerFiles`. Read with the `tokenizers` library alone, because
preparation has no use for the seconds and the memory that transformers and torch take.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from finetune_api.errors import InvalidModel

# Names that base models give the token that ends a text, tried when no tokenizer_config.json says which one it is.
_USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer that neither cuts nor pads, and the names around it."""

    path: Path
    tokenizer: Tokenizer
    named_tokens: dict[str, str]  # "bos_token", "eos_token", ...: their text
    chat_template: str | None
    digest: str  # SHA-256 (hex) of the vocabulary file and of all that is above

    @property
    def end_of_text(self) -> str | None:
        """The token that ends a text, by name or by custom."""
        usual = (token for token in _USUAL_ENDS if self.tokenizer.token_to_id(token) is not None)
        return self.named_tokens.get("eos_token") or next(usual, None)


def read_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer of a model folder or of one JSON file. Raises InvalidModel."""
    file = path / "tokenizer.json" if path.is_dir() else path
    text = _read(file)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise InvalidModel(f"{file}: not a tokenizers JSON file ({error}); give a fast tokenizer's tokenizer.json") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = _settings(path / "tokenizer_config.json") if path.is_dir() else {}
    named = {name: token for name, value in settings.items() if name.endswith("_token") and (token := _token_text(value)) is not None}
    chat_template = _chat_template(path, settings) if path.is_dir() else None
    digest = hashlib.sha256(json.dumps([text, named, chat_template], sort_keys=True).encode()).hexdigest()
    return TokenizerFiles(path=path, tokenizer=tokenizer, named_tokens=named, chat_template=chat_template, digest=digest)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidModel(f"{file}: no such file; a model needs a fast tokenizer, saved as tokenizer.json") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{file}: can't be read ({error}); save the tokenizer again") from None


def _settings(file: Path) -> dict[str, Any]:
    """tokenizer_config.json; nothing if there is none."""
    if not file.exists():
        return {}
    try:
        settings = json.loads(_read(file))
    except ValueError as error:
        raise InvalidModel(f"{file}: not JSON ({error}); save the tokenizer again") from None
    return settings if isinstance(settings, dict) else {}


def _token_text(value: Any) -> str | None:
    """A token's text: it is saved as a string or as an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The template from its own file, or from tokenizer_config.json, where several may be listed by name."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return _read(file)
    value = settings.get("chat_template")
    if isinstance(value, list):
        value = {entry["name"]: entry["template"] for entry in value}.get("default")
    return value if isinstance(value, str) else None
