"""From a dialogue to token ids and labels, one dialogue at a time, before anything is packed.

In: dialogues, a template and a tokenizer that holds its control tokens. Out: examples, unshifted. What the template writes
is encoded with control tokens recognised; what people wrote is encoded apart and never becomes one. So a prompt that `chat`
makes here is a token prefix of what was trained. Rows, files and tensors are unknown here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenizers import Tokenizer

from finetune_api.errors import InvalidModel
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.preparation.overlong import Piece, pieces
from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.registry import add_control_tokens
from finetune_trainer.templates.turns import Template, Turn


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens of a dialogue, or of a piece of one, and the ranges of them that are learnt: ascending, apart, not empty."""

    input_ids: list[int]
    supervised: list[range]

    @property
    def labels(self) -> list[int]:
        """Unshifted, as long as `input_ids`, which stays as it is."""
        return labels_from_spans(self.input_ids, self.supervised)

    @property
    def num_supervised(self) -> int:
        """Labels that count in the loss: the first token of a segment is predicted by nothing."""
        return sum(len(span) for span in self.supervised) - any(0 in span for span in self.supervised)


@dataclass(slots=True, kw_only=True)
class Encoded:
    """What became of one dialogue. `examples` is empty when nothing of it can be learnt."""

    examples: list[Example] = field(default_factory=list)
    dropped_turns: int = 0  # answers longer than a row, left out
    cut_turns: int = 0  # answers longer than a row, cut
    questions_left_out: int = 0  # answers that fit a row, while the question before them does not


def labels_from_spans(input_ids: Sequence[int], supervised: Sequence[range]) -> list[int]:
    """Copy of `input_ids` with IGNORE_INDEX outside the `supervised` ranges. Not shifted.

    >>> labels_from_spans([1, 7, 8, 9, 2], [range(3, 5)])
    [-100, -100, -100, 9, 2]
    """
    labels = [IGNORE_INDEX] * len(input_ids)
    for span in supervised:
        labels[span.start : span.stop] = input_ids[span.start : span.stop]
    return labels


OverlongTurns = Literal["drop", "cut"]
Contents = dict[str, list[int]]


class Encoder:
    """A tokenizer and a template that fit each other. Adds the template's control tokens to the tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        """Raises InvalidModel if the tokenizer can't take the control tokens, or has others than the model was trained with."""
        self.template = add_control_tokens(tokenizer, template)
        self._framing = tokenizer
        # A copy that splits control tokens as any other text: nobody can write one into a message.
        self._writing = Tokenizer.from_str(tokenizer.to_str())
        self._writing.encode_special_tokens = True
        self._words = WordEncoder(self._writing)
        self._frames: dict[str, list[int]] = {}
        self._check()

    @property
    def tokenizer(self) -> Tokenizer:
        """With the control tokens."""
        return self._framing

    def encode_prompt(self, messages: Sequence[Message], generation_prompt: bool = True) -> list[int]:
        """What the model is given to answer `messages`: a prefix of what it was trained on."""
        turns = self.template.turns(messages, generation_prompt)
        return self._example(turns, self._contents([turns]), [], 0, leads=False).input_ids

    def encode(
        self,
        dialogues: Sequence[Dialogue],
        *,
        max_length: int | None = None,
        overlong_turns: OverlongTurns = "drop",
        known: Sequence[frozenset[int]] | None = None,
    ) -> list[Encoded]:
        """Examples of each dialogue, of at most `max_length` tokens (None: as long as it is).

        `known[i]` holds the positions of messages in dialogue i that are not to be learnt, because another dialogue teaches them.
        """
        turns = [self.template.turns(dialogue.messages) for dialogue in dialogues]
        contents = self._contents(turns)
        known = known or [frozenset()] * len(dialogues)
        encoded = []
        for dialogue, its_turns, its_known in zip(dialogues, turns, known, strict=True):
            taught = _taught(dialogue.messages, its_known)
            example = self._example(its_turns, contents, taught, len(its_turns) - len(dialogue.messages), leads=True)
            if max_length is None or len(example.input_ids) <= max_length:
                encoded.append(Encoded(examples=[example] if taught and example.num_supervised else []))
            else:
                encoded.append(self._pieces(dialogue.messages, contents, taught, max_length, overlong_turns))
        return encoded

    def _pieces(
        self, messages: Sequence[Message], contents: Contents, taught: list[int], max_length: int, overlong_turns: OverlongTurns
    ) -> Encoded:
        """The examples of a dialogue that is longer than a row. Each begins with the system message; so positions count from after it."""
        system = list(messages[:1]) if messages[0].role == "system" else []
        body = messages[len(system) :]
        targets = [index - len(system) for index in taught]

        def example(start: int, stop: int, first_taught: int) -> Example:
            turns = self.template.turns([*system, *body[start:stop]])
            before = len(turns) - (stop - start)
            new = [index - start for index in targets if first_taught <= index < stop]
            return self._example(turns, contents, new, before, leads=first_taught == targets[0])

        def length(start: int, stop: int) -> int:
            return len(example(start, stop, start).input_ids)

        encoded = Encoded()
        roles = [message.role for message in body]
        for piece in pieces(roles, targets, length, max_length, alone=self.template.answers_stand_alone):
            if piece.fits:
                encoded.examples.append(example(piece.start, piece.stop, piece.first_taught))
                encoded.questions_left_out += roles[piece.start] == "assistant" and piece.start > 0
            elif overlong_turns == "cut" and (cut := self._cut(example, length, piece, max_length)):
                encoded.examples.append(cut)
                encoded.cut_turns += 1
            else:
                encoded.dropped_turns += 1
        return encoded

    def _cut(
        self, example: Callable[[int, int, int], Example], length: Callable[[int, int], int], piece: Piece, max_length: int
    ) -> Example | None:
        """The beginning of an answer that is longer than a row; with its question, if that leaves it half of the row."""
        question = piece.start - 1
        keeps_question = question >= 0 and (not self.template.answers_stand_alone or length(question, piece.start) <= max_length // 2)
        whole = example(question if keeps_question else piece.start, piece.stop, piece.first_taught)
        spans = [range(span.start, min(span.stop, max_length)) for span in whole.supervised if span.start < max_length]
        cut = Example(whole.input_ids[:max_length], spans)
        return cut if cut.num_supervised else None

    def _example(self, turns: Sequence[Turn], contents: Contents, taught: Sequence[int], before: int, *, leads: bool) -> Example:
        """The turns one after another. `before` turns belong to no message or are repeated; `taught` counts from after them.

        `leads`: this is the beginning of the dialogue, where `masking: blog` learns the system turn.
        """
        ids: list[int] = []
        spans: list[range] = []
        for index, turn in enumerate(turns):
            header, content = self._frame(turn.header), contents[turn.content]
            end, tail = self._frame(turn.end), self._frame(turn.tail)
            start = len(ids)
            ids += header
            ids += content
            ids += end
            stop = len(ids)
            ids += tail
            if turn.role == "assistant" and index - before in taught:
                spans.append(range(start, len(ids)) if self.template.masking == "blog" else range(start + len(header), stop))
            elif turn.role == "system" and leads and self.template.masking == "blog":
                spans.append(range(start, len(ids)))
        return Example(ids, spans)

    def _contents(self, dialogues: Sequence[Sequence[Turn]]) -> Contents:
        """The ids of all texts that people wrote, from one call. Paths of a tree share messages: each text is encoded once."""
        texts = list(dict.fromkeys(turn.content for turns in dialogues for turn in turns))
        return dict(zip(texts, self._words.encode(texts), strict=True))

    def _frame(self, text: str) -> list[int]:
        """The ids of a text that the template writes."""
        if text not in self._frames:
            self._frames[text] = self._framing.encode(text, add_special_tokens=False).ids
        return self._frames[text]

    def _check(self) -> None:
        """A message that holds a token of the template must come out without it."""
        for token in (*self.template.new_tokens, *self.template.stop_tokens):
            token_id = self._framing.token_to_id(token)
            if token_id is not None and token_id in self._writing.encode(f"a{token}\n", add_special_tokens=False).ids:
                raise InvalidModel(
                    f"this tokenizer reads {token} in a message as a control token; a user could end a turn: choose another text"
                )


def _taught(messages: Sequence[Message], known: frozenset[int]) -> list[int]:
    """Positions of the answers that are to be learnt."""
    return [index for index, message in enumerate(messages) if message.role == "assistant" and index not in known]
