"""Texts to ids, a word at a time: words repeat, and looking one up is many times faster than encoding it again.

In: a tokenizer and texts. Out: exactly the ids that the tokenizer gives for each text. That is so because byte-level BPE divides a
text by a regular expression first and never merges across its parts, and because all the expressions that are known here begin a new part
where `_WORDS` divides. A tokenizer that is not known to work like this has none here.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE

# GPT-2's expression (openai/gpt-2, encoder.py) is what `ByteLevel` applies by itself; these are written out: of Llama 3, of Qwen 2 and 3,
# and of o200k (GPT-OSS). In all of them a space is only ever the first character of a part, or within white space.
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_EXPRESSIONS = {
    rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
    rf"{_ENDINGS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_ENDINGS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}",
}
# A word begins at a space: before an ASCII letter, which takes the last of several spaces with it, or between two visible ASCII characters.
# It ends after an ASCII letter before visible ASCII, but for an apostrophe: that may begin an ending such as 's.
_WORDS = re.compile(r"(?= (?:(?=[A-Za-z])|(?<=[!-~] )(?=[!-~])))|(?<=[A-Za-z])(?=[!-&(-@[-`{-~])")
_LONGEST_KEPT = 32  # characters: what is not divided, such as a line of Chinese, seldom comes twice
_MOST_KEPT = 1 << 17
_TOGETHER = 64  # words in one text


class WordEncoder:
    """Encodes texts in which special tokens are text, and remembers words. Not for several threads at once.

    Texts hold none of the added tokens that are not special.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """`tokenizer` divides at words, recognises its tokens, and must not change afterwards."""
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        # It divides a text for certain, and what it divides is encoded as if each were alone.
        self._divider_id, self._divider = next((token_id, token.content) for token_id, token in added.items())
        # Nearly every token's text is divided itself, so that no word holds it.
        whole = [token.content for token in added.values() if len(_WORDS.split(token.content)) == 1]
        self._undivided = re.compile("|".join(map(re.escape, whole)) or r"(?!)")
        self._ids: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "WordEncoder | None":
        """None where a text has to be encoded as a whole."""
        return cls(tokenizer) if divides_at_words(tokenizer) else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        divided = [_WORDS.split(text) for text in texts]
        # Not `-`, which goes through all that is known.
        new = list(set(chain.from_iterable(divided)).difference(self._ids))
        strange = [word for word in new if self._undivided.search(word)]
        others = list(set(new).difference(strange)) if strange else new
        self._ids.update(zip(others, self._together(others), strict=True))
        self._ids.update(zip(strange, self._alone(strange), strict=True))
        found = self._ids.__getitem__
        encoded = [list(chain.from_iterable(map(found, words))) for words in divided]
        self._forget(new)
        return encoded

    def _together(self, words: Sequence[str]) -> list[list[int]]:
        """Many in one text, since a text of its own costs more than a short word."""
        texts = [self._divider.join(words[start : start + _TOGETHER]) for start in range(0, len(words), _TOGETHER)]
        ids: list[int] = []
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids += encoding.ids
            ids.append(self._divider_id)
        stops: list[int] = np.flatnonzero(np.array(ids) == self._divider_id).tolist()
        if len(stops) != len(words):  # another token begins in a word and ends in the divider
            return self._alone(words)
        return [ids[start:stop] for start, stop in zip([0, *(stop + 1 for stop in stops)], stops, strict=False)]

    def _alone(self, words: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._literal.encode_batch_fast(list(words), add_special_tokens=False)] if words else []

    @cached_property
    def _literal(self) -> Tokenizer:
        """A copy that splits control tokens as any other text: nobody can write one into a message."""
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = True
        return copy

    def _forget(self, new: Sequence[str]) -> None:
        """Keep memory bounded."""
        if len(self._ids) > _MOST_KEPT:
            self._ids.clear()
            return
        for word in [word for word in new if len(word) > _LONGEST_KEPT]:
            del self._ids[word]


def divides_at_words(tokenizer: Tokenizer) -> bool:
    """Whether it is byte-level BPE with an expression that is known, and its added tokens are where their texts are and nowhere else."""
    if not isinstance(tokenizer.model, BPE) or tokenizer.model.dropout or tokenizer.pre_tokenizer is None:
        return False
    # Unicode's composition never joins a character with ASCII that follows it.
    if tokenizer.normalizer is not None and json.loads(tokenizer.normalizer.__getstate__())["type"] != "NFC":
        return False
    tokens = tokenizer.get_added_tokens_decoder().values()
    for token in tokens:
        if token.lstrip or token.rstrip or token.single_word or (token.normalized and tokenizer.normalizer is not None):
            return False
    return len(tokens) > 0 and _begins_parts_at_words(json.loads(tokenizer.pre_tokenizer.__getstate__()))


def _begins_parts_at_words(pre_tokenizer: dict[str, Any]) -> bool:
    *before, last = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    if last["use_regex"]:  # digits set apart before it divide further, never less
        return all(each["type"] == "Digits" for each in before)
    if [each["type"] for each in before] != ["Split"]:
        return False
    (split,) = before
    return split["pattern"].get("Regex") in _EXPRESSIONS and split["behavior"] == "Isolated" and not split["invert"]
