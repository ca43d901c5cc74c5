"""Rendered texts on byte-level BPE: divided at control tokens and encoded a word at a time, with exactly the ids of the whole text.

In: rendered texts. Out: ids and answers, or nothing where a token would reach over a prompt's end, or where a message holds the text of a
control token whose flag isn't `special`: `texts` encodes these as a whole. It is exact for the reasons in `words`, and because added tokens
divide a text first.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.turns import Rendered

_MOST_HEADERS = 4096

# (token, where it begins, where it ends) -> whether a message wrote it
IsForeign = Callable[[str, int, int], bool]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Ids of a rendered text, and each answer's range of what is learnt."""

    ids: list[int]
    answers: list[tuple[int, range]]  # position of the message, range
    messages: dict[int, int]  # near which token the text of each message begins
    seams: int


class SegmentEncoder:
    """For one tokenizer, which must not change afterwards."""

    def __init__(self, tokenizer: Tokenizer, words: WordEncoder) -> None:
        self._words = words
        self._headers: dict[str, list[int]] = {}
        added = tokenizer.get_added_tokens_decoder()
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = frozenset(token.content for token in added.values() if token.special)
        # Longest first: of tokens that begin at the same place, tokenizers take the longest.
        self._token = re.compile("|".join(re.escape(token) for token in sorted(self._ids, key=len, reverse=True)) or r"(?!)")

    def encode(self, texts: Sequence[Rendered], foreign: Callable[[Rendered], IsForeign]) -> list[EncodedText | None]:
        """None for a text that has to be encoded as a whole."""
        divided = [self._divided(each, foreign(each)) for each in texts]
        segments = list(dict.fromkeys(segment for each in divided if each for segment in each.segments))
        ids = dict(zip(segments, self._words.encode(segments), strict=True))
        return [None if each is None else self._joined(each, ids) for each in divided]

    def _header(self, text: str) -> list[int]:
        """The same few texts again and again."""
        if text not in self._headers:
            if len(self._headers) > _MOST_HEADERS:
                self._headers.clear()
            self._headers[text] = self._words.encode([text])[0]
        return self._headers[text]

    def _divided(self, rendered: Rendered, is_foreign: IsForeign) -> "_Divided | None":
        text, written = rendered.text, rendered.written
        segments, starts, tokens, position, following = [], [], [], 0, 0
        for found in self._token.finditer(text):
            token, (start, stop) = found.group(), found.span()
            while following < len(written) and written[following].stop <= start:
                following += 1
            if following < len(written) and written[following].start < stop and is_foreign(token, start, stop):
                if token in self._special and written[following].start <= start and stop <= written[following].stop:
                    continue  # `words` reads it as text
                return None
            segments.append(text[position:start])
            starts.append(position)
            tokens.append(self._ids[token])
            position = stop
        return _Divided(rendered, [*segments, text[position:]], [*starts, position], tokens)

    def _joined(self, divided: "_Divided", ids: dict[str, list[int]]) -> EncodedText | None:
        joined: list[int] = []
        begins: list[int] = []
        for segment, token in zip(divided.segments, [*divided.tokens, None], strict=True):
            begins.append(len(joined))
            joined += ids[segment]
            if token is not None:
                joined.append(token)

        def place(character: int) -> int | None:
            """The token before which a character stands; None where a token reaches over it."""
            index = bisect_right(divided.starts, character) - 1
            before = divided.segments[index][: character - divided.starts[index]]
            if not before:
                return begins[index]
            alone = self._header(before)
            ends_token = len(before) < character - divided.starts[index]
            matches = ids[divided.segments[index]][: len(alone)] == alone
            return begins[index] + len(alone) + ends_token if matches else None

        answers = []
        for answer in divided.rendered.answers:
            prompt, stop = place(answer.prompt), place(answer.stop)
            start = prompt if answer.start == answer.prompt else place(answer.start)
            if prompt is None or start is None or stop is None:
                return None
            answers.append((answer.message, range(start, stop)))
        messages: dict[int, int] = {}
        for written in divided.rendered.written:
            messages.setdefault(written.message, begins[bisect_right(divided.starts, written.start) - 1])
        return EncodedText(joined, answers, messages, 0)


@dataclass(frozen=True, slots=True)
class _Divided:
    """A text between its control tokens. Each segment but the last is followed by a token."""

    rendered: Rendered
    segments: list[str]
    starts: list[int]
    tokens: list[int]
