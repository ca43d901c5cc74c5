"""Texts to ids, a word at a time: words repeat, and looking one up is many times faster than encoding it again.

In: a tokenizer and texts. Out: exactly the ids that the tokenizer gives for each text. That is so because byte-level BPE divides a
text by a regular expression first and never merges across its parts, and because that expression always begins a new part at a
space which stands between a visible ASCII character and an ASCII letter. A tokenizer that is not known to work like this has none here.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain, islice

from tokenizers import Tokenizer
from tokenizers.models import BPE

# GPT-2's expression (openai/gpt-2, encoder.py), which `ByteLevel` applies: a part holds a space only as its first character or within
# white space, and before a letter ` ?\p{L}+` takes it. Digits may be set apart before; that divides further, never less.
# The literal space first: it is what the search looks for.
_BETWEEN_WORDS = re.compile(r" (?=[A-Za-z])(?<=[!-~] )")
_LONGEST_KEPT = 32  # characters: what has no spaces, such as a link, seldom comes twice
_MOST_KEPT = 1 << 17


class WordEncoder:
    """Encodes texts in which control tokens are text, and remembers words. Not for several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` divides at words, and must not change afterwards."""
        # A copy that splits control tokens as any other text: nobody can write one into a message.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._first: dict[str, list[int]] = {}  # ids of what a text begins with
        self._later: dict[str, list[int]] = {}  # ids of a word and the space before it, by the word

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "WordEncoder | None":
        """None where a text has to be encoded as a whole."""
        return cls(tokenizer) if divides_at_words(tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        divided = [_BETWEEN_WORDS.split(text) for text in texts]
        first = {words[0] for words in divided} - self._first.keys()
        later = set(chain.from_iterable(islice(words, 1, None) for words in divided)) - self._later.keys()
        self._first.update(zip(first, self._encode_whole(list(first)), strict=True))
        self._later.update(zip(later, self._encode_whole([f" {word}" for word in later]), strict=True))
        found = self._later.__getitem__
        encoded = [list(chain(self._first[words[0]], chain.from_iterable(map(found, islice(words, 1, None))))) for words in divided]
        _forget(self._first, first)
        _forget(self._later, later)
        return encoded

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _forget(known: dict[str, list[int]], new: set[str]) -> None:
    """Keep memory bounded."""
    if len(known) > _MOST_KEPT:
        known.clear()
        return
    for word in new:
        if len(word) > _LONGEST_KEPT:
            del known[word]


def divides_at_words(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer is byte-level BPE with GPT-2's expression, and nothing that it adds can reach over a space."""
    if (
        not isinstance(tokenizer.model, BPE)
        or tokenizer.model.dropout
        or tokenizer.normalizer is not None
        or tokenizer.pre_tokenizer is None
    ):
        return False
    for token in tokenizer.get_added_tokens_decoder().values():
        if not token.special or token.lstrip or token.rstrip or token.single_word:
            return False
    settings = json.loads(tokenizer.pre_tokenizer.__getstate__())
    *before, last = settings["pretokenizers"] if settings["type"] == "Sequence" else [settings]
    is_byte_level = last["type"] == "ByteLevel" and last["use_regex"] and not last["add_prefix_space"]
    return is_byte_level and all(each["type"] == "Digits" for each in before)
