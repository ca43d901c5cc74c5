"""A tokenizer as files: `tokenizer.json` and what transformers keeps beside it.

In: a model folder, or one tokenizers JSON file. Out: a `TokenizerFiles`. Read with the `tokenizers` library alone, because
preparation has no use for the seconds and the memory that transformers and torch take.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from finetune_api.errors import InvalidModel
from finetune_api.json_text import json_value

# Names that base models give the token that ends a text, tried when no tokenizer_config.json says which one it is.
_CONTROL = re.compile(r"[<\[{|\uff5c].*[>\]}|\uff5c]")
_HTML = re.compile(
    r"</?(a|b|blockquote|br|caption|code|div|em|h[1-6]|i|img|li|ol|p|pre|s|span|strong|su[bp]|t(able|body|d|foot|h|head|r)|u|ul)>"
)
_USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer that neither cuts nor pads, and the names around it."""

    path: Path
    tokenizer: Tokenizer
    named_tokens: dict[str, str]  # "bos_token", "eos_token", ...: their text
    chat_template: str | None
    digest: str  # SHA-256 (hex) of the vocabulary file and of all that is above
    other_templates: tuple[str, ...] = ()  # names of chat templates beside the default one, such as tool_use: they are not used

    @property
    def end_of_text(self) -> str | None:
        """The token that ends a text, by name or by custom."""
        usual = (token for token in _USUAL_ENDS if self.tokenizer.token_to_id(token) is not None)
        return self.named_tokens.get("eos_token") or next(usual, None)

    @property
    def pad_token(self) -> str | None:
        """The token that fills rows up; where none is named, the one that ends a text."""
        return self.named_tokens.get("pad_token") or self.end_of_text

    @property
    def begin(self) -> str:
        """What the tokenizer adds before every text by itself: Llama 3's and Gemma's BOS."""
        alone = self.tokenizer.encode("a", add_special_tokens=False).ids
        with_special = self.tokenizer.encode("a", add_special_tokens=True).ids
        before = next((start for start in range(len(with_special)) if with_special[start : start + len(alone)] == alone), 0)
        return "".join(self.tokenizer.id_to_token(token_id) or "" for token_id in with_special[:before])

    def control_tokens(self, template: str = "") -> list[str]:
        """Texts of tokens that have a meaning of their own in this tokenizer; `template` may write some that are not marked as special."""
        return control_tokens(self.tokenizer, template)


def control_tokens(tokenizer: Tokenizer, template: str = "") -> list[str]:
    """Added tokens that no message may write: special ones, those that a template writes, and what looks like one, whatever its flag.

    Other added tokens are vocabulary: runs of white space, words, elements of HTML (Gemma has all of these).
    """
    return [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.content.strip("\u2581 \t\r\n")
        and (token.special or token.content in template or (_CONTROL.search(token.content) and not _HTML.fullmatch(token.content)))
    ]


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
    if path.is_dir() and "added_tokens_decoder" not in settings:
        # The older file, which transformers reads where tokenizer_config.json lists no added tokens; its values win.
        settings |= {name: value for name, value in _settings(path / "special_tokens_map.json").items() if value is not None}
    named = {name: token for name, value in settings.items() if name.endswith("_token") and (token := _token_text(value)) is not None}
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    known = [token for token in dict.fromkeys(named.values()) if token not in added and tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known])
    chat_template, others = _chat_template(path, settings) if path.is_dir() else (None, ())
    digest = hashlib.sha256(json.dumps([text, named, chat_template], sort_keys=True).encode()).hexdigest()
    return TokenizerFiles(
        path=path, tokenizer=tokenizer, named_tokens=named, chat_template=chat_template, digest=digest, other_templates=others
    )


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
        settings = json_value(_read(file))
    except ValueError as error:
        raise InvalidModel(f"{file}: not JSON ({error}); save the tokenizer again") from None
    return settings if isinstance(settings, dict) else {}


def _token_text(value: Any) -> str | None:
    """A token's text: it is saved as a string or as an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _chat_template(folder: Path, settings: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The default template, from its own file or from tokenizer_config.json, and the names of others that are kept beside it."""
    beside = folder / "additional_chat_templates"
    names = {file.stem for file in beside.glob("*.jinja")} if beside.is_dir() else set()
    value = settings.get("chat_template")
    if isinstance(value, list):
        listed = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        names |= {str(name) for name in listed}
        value = listed.get("default")
    file = folder / "chat_template.jinja"
    default = _read(file) if file.exists() else value if isinstance(value, str) else None
    return default, tuple(sorted(names - {"default"}))
