"""Rendered texts to ids: each encoded once and as a whole, as an engine encodes it, with answers found by their characters.

In: rendered texts and a tokenizer. Out: ids, and the range of ids of each answer. Two things are not as in a plain encoding. The text of a
control token that somebody wrote into a message stays text. And what an engine is given to answer is a prefix of the ids: where a token
would reach over the seam of a prompt and its answer, the two are encoded apart, and counted.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from finetune_trainer.preparation.segments import EncodedText, IsForeign, SegmentEncoder
from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.turns import Answer, Rendered, Unrendered, Written

# Noncharacters, around the number of a token: how the template's own tokens are written where a message holds their text.
_ALIAS_FROM, _ALIAS_TO = "\ufdd2", "\ufdd3"
_MOST_HEADERS = 4096


class TextEncoder:
    """For one tokenizer, which must not change afterwards, and one template's control tokens."""

    def __init__(self, tokenizer: Tokenizer, control: Sequence[str], turn_tokens: frozenset[str] | None, words: WordEncoder | None) -> None:
        """`turn_tokens`: those that stay text in answers; None: all control tokens. `words`: None where a text is encoded as a whole."""
        self._plain = _Encoding(tokenizer, {})
        self._segments = None if words is None else SegmentEncoder(tokenizer, words)
        self._control = frozenset(control)
        self._turn_tokens = (
            self._control
            if turn_tokens is None
            else turn_tokens | {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        )
        self._texts = {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}

    @cached_property
    def _aliased(self) -> "_Encoding":
        """The same tokenizer, in which control tokens have texts that nobody can write."""
        return _aliased(self._plain.tokenizer, sorted(self._control))

    def encode(self, texts: Sequence[Rendered]) -> list[EncodedText | Unrendered]:
        """Unrendered, not raised, for a text with a control token in a message that this tokenizer can't read as text."""
        fast = self._segments.encode(texts, self._foreign) if self._segments is not None else [None] * len(texts)
        whole = [each.text for each, done in zip(texts, fast, strict=True) if done is None]
        encodings = iter(self._plain.tokenizer.encode_batch(whole, add_special_tokens=False))
        found: list[EncodedText | Unrendered] = []
        for each, done in zip(texts, fast, strict=True):
            try:
                found.append(done or self._encoded(each, next(encodings)))
            except Unrendered as error:
                found.append(error)
        return found

    def _encoded(self, rendered: Rendered, encoding: Any) -> EncodedText:
        ids, offsets = encoding.ids, encoding.offsets
        places = [index for index, token_id in enumerate(ids) if token_id in self._texts]
        own, foreign, is_foreign = [], False, self._foreign(rendered)
        for index in places:
            token = self._texts[ids[index]]
            if token in self._control:
                start, stop = self._core(rendered.text, offsets[index], token)
                if is_foreign(token, start, stop):
                    foreign = True
                else:
                    own.append((start, stop, token))
        if not foreign:
            return self._plain.with_answers(rendered.text, rendered.answers, ids, offsets, places, rendered.written)
        return self._with_aliases(rendered, own)

    def _core(self, text: str, offset: tuple[int, int], token: str) -> tuple[int, int]:
        """Where a token's own text is: some take white space around it with them."""
        at = text.find(token, *offset)
        return (at, at + len(token)) if at >= 0 else offset

    def _foreign(self, rendered: Rendered) -> IsForeign:
        """Tells whether a message of the text wrote a control token, or a part of it."""
        control, turn_tokens, written = self._control, self._turn_tokens, rendered.written
        stops = [each.stop for each in written]

        def is_foreign(token: str, start: int, stop: int) -> bool:
            if token not in control:
                return False
            first = bisect_right(stops, start)
            while first < len(written) and written[first].start < stop:
                if written[first].role != "assistant" or token in turn_tokens:
                    return True
                first += 1
            return False

        return is_foreign

    def _with_aliases(self, rendered: Rendered, own: Sequence[tuple[int, int, str]]) -> EncodedText:
        text, aliased = rendered.text, self._aliased
        if _ALIAS_FROM in text or _ALIAS_TO in text:
            raise Unrendered("a message holds the text of a control token, and characters that Unicode calls noncharacters")
        pieces, marks, moved, position, length = [], [0], [0], 0, 0
        for start, stop, token in own:
            alias = aliased.names[token]
            pieces += [text[position:start], alias]
            length += start - position + len(alias)
            position = stop
            marks.append(stop)
            moved.append(length)
        whole = "".join([*pieces, text[position:]])

        def there(character: int) -> int:
            index = bisect_right(marks, character) - 1
            # A character inside of a token can't be a boundary; the token's start is where it stood.
            return moved[index] + character - marks[index]

        answers = [Answer(each.message, there(each.prompt), there(each.start), there(each.stop)) for each in rendered.answers]
        encoding = aliased.tokenizer.encode(whole, add_special_tokens=False)
        places = [index for index, token_id in enumerate(encoding.ids) if token_id in aliased.added]
        written = [each._replace(start=there(each.start), stop=there(each.stop)) for each in rendered.written]
        found = aliased.with_answers(whole, answers, encoding.ids, encoding.offsets, places, written)
        ids = [aliased.back.get(token_id, token_id) for token_id in found.ids]
        self._check(ids, rendered, own)
        return EncodedText(ids, found.answers, found.messages, found.seams)

    def _check(self, ids: Sequence[int], rendered: Rendered, own: Sequence[tuple[int, int, str]]) -> None:
        """As many control tokens as the template wrote, and no more."""
        control = {token_id: token for token_id, token in self._texts.items() if token in self._control}
        if sum(token_id in control for token_id in ids) > len(own):
            token = next(token for token_id, token in control.items() if token_id in ids and token in rendered.text)
            raise Unrendered(f"the tokenizer reads {token} in a message as a control token; a user could end a turn")


class _Encoding:
    """A tokenizer, and how it encodes beginnings and continuations of a text."""

    def __init__(self, tokenizer: Tokenizer, names: dict[str, str], back: dict[int, int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.names = names  # of control tokens in its texts
        self.back = back or {}  # ids that have another number in the real tokenizer
        self.added = frozenset(tokenizer.get_added_tokens_decoder())
        self._headers: dict[str, _Tokens] = {}

    @cached_property
    def _continuing(self) -> Tokenizer:
        """Encodes a text that does not begin one: without the space that some tokenizers put before a text."""
        parts = {name: _settings(getattr(self.tokenizer, name)) for name in ("normalizer", "pre_tokenizer")}
        if _without_prefix(parts) == parts:
            return self.tokenizer
        return Tokenizer.from_str(json.dumps(_without_prefix(json.loads(self.tokenizer.to_str()))))

    def continued(self, text: str) -> "_Tokens":
        """A text that goes on from a prompt."""
        return _Tokens.of(self._continuing.encode(text, add_special_tokens=False))

    def header(self, text: str) -> "_Tokens":
        """The end of a prompt: the same few texts again and again."""
        if text not in self._headers:
            if len(self._headers) > _MOST_HEADERS:
                self._headers.clear()
            self._headers[text] = _Tokens.of(self.tokenizer.encode(text, add_special_tokens=False))
        return self._headers[text]

    def with_answers(
        self,
        text: str,
        answers: Sequence[Answer],
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
        added: Sequence[int],
        written: Sequence[Written],
    ) -> EncodedText:
        """Find answers in an encoding of `text`; `added`: positions of added tokens, at which tokenizers divide a text."""
        starts = [start for start, _ in offsets]
        begins, stops = [starts[index] for index in added], [offsets[index][1] for index in added]
        begun: list[int] = []
        new_ids: list[int] = []
        new_starts: list[int] = []
        seams = shift = copied = 0  # `copied`: tokens of `ids` that are in the new lists, or replaced there
        for before, group in groupby(answers, key=lambda answer: bisect_right(stops, answer.prompt) - 1):
            first, segment = (added[before], begins[before]) if before >= 0 else (0, 0)
            after = bisect_right(begins, segment) if before >= 0 else 0
            last, end = (added[after], begins[after]) if after < len(added) else (len(ids), len(text))
            part = _Part(self, text, segment, end, ids[first:last], starts[first:last])
            begun += [first + shift + part.begin(answer.prompt) for answer in group]
            if part.seams:
                seams += part.seams
                new_ids += ids[copied:first] + part.ids
                new_starts += starts[copied:first] + part.starts
                copied, shift = last, len(new_ids) - last
        if seams:
            ids, starts = new_ids + ids[copied:], new_starts + starts[copied:]
        found = []
        for answer, begin in zip(answers, begun, strict=True):
            start = begin if answer.start == answer.prompt else bisect_left(starts, answer.start)
            found.append((answer.message, range(start, max(bisect_left(starts, answer.stop, lo=start), start))))
        messages: dict[int, int] = {}
        for each in written:
            messages.setdefault(each.message, bisect_left(starts, each.start))
        return EncodedText(ids, found, messages, seams)


class _Part:
    """The text from one added token to the next, which a tokenizer encodes by itself."""

    def __init__(self, encoding: _Encoding, text: str, start: int, end: int, ids: list[int], starts: list[int]) -> None:
        self.ids, self.starts, self.seams = ids, starts, 0
        self._encoding, self._text, self._end = encoding, text, end
        self._open_from, self._done = start, 0  # where the last seam is, in characters and in tokens

    def begin(self, prompt: int) -> int:
        """The position of the first token after a prompt; the part is encoded anew from there if that is needed to have one."""
        before = self._text[self._open_from : prompt]
        header = self._encoding.continued(before) if self.seams else self._encoding.header(before)
        begin = self._done + len(header.ids)
        if self.ids[self._done : begin] != header.ids:
            rest = self._encoding.continued(self._text[prompt : self._end])
            self.ids = self.ids[: self._done] + header.ids + rest.ids
            self.starts = self.starts[: self._done] + header.shifted(self._open_from) + rest.shifted(prompt)
            self.seams += 1
            self._open_from, self._done = prompt, begin
        return begin


class _Tokens(NamedTuple):
    """Ids, and the character at which each begins."""

    ids: list[int]
    starts: list[int]

    @classmethod
    def of(cls, encoding: Any) -> "_Tokens":
        return cls(encoding.ids, [start for start, _ in encoding.offsets])

    def shifted(self, by: int) -> list[int]:
        return [by + start for start in self.starts]


def _settings(part: Any) -> Any:
    """A normalizer or pre-tokenizer as it is in a tokenizer's JSON."""
    return None if part is None else json.loads(part.__getstate__())


def _without_prefix(value: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a tokenizer that puts nothing before a text."""

    def without(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if part.get("type") == "Sequence":
            name = "normalizers" if "normalizers" in part else "pretokenizers"
            return part | {name: [without(each) for each in part[name] if each.get("type") != "Prepend"]}
        if part.get("type") == "Metaspace":
            return part | {"prepend_scheme": "never"}
        if part.get("type") == "ByteLevel":
            return part | {"add_prefix_space": False}
        return None if part.get("type") == "Prepend" else part

    return value | {"normalizer": without(value.get("normalizer")), "pre_tokenizer": without(value.get("pre_tokenizer"))}


def _aliased(tokenizer: Tokenizer, control: Sequence[str]) -> _Encoding:
    """A copy in which each of `control` has another text, in the vocabulary too: a Unigram model finds its pieces in any text."""
    value = json.loads(tokenizer.to_str())
    names = {token: f"{_ALIAS_FROM}{number}{_ALIAS_TO}" for number, token in enumerate(control)}
    for token in value["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = value["model"]
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    value["post_processor"] = None
    copy = Tokenizer.from_str(json.dumps({**value, "added_tokens": []}))
    copy.add_tokens([AddedToken(**{name: token[name] for name in token if name != "id"}) for token in value["added_tokens"]])
    real = {names.get(token, token): token_id for token, token_id in tokenizer.get_vocab(True).items()}
    back = {token_id: real[token] for token, token_id in copy.get_vocab(True).items() if token in real and real[token] != token_id}
    return _Encoding(copy, names, back)
