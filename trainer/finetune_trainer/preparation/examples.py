"""What a dialogue becomes: tokens, and the ranges of them that are learnt.

In: ids and where answers are in them. Out: examples, unshifted. How ids are made is the business of `texts` and `turn_encoder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.templates.turns import Masking, Rendered

OverlongTurns = Literal["drop", "cut"]


class Example(NamedTuple):
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
    refused: str | None = None  # why the template can't take the dialogue: a bad row
    dropped_turns: int = 0  # answers longer than a row, left out
    cut_turns: int = 0  # answers longer than a row, cut
    dropped_exchanges: int = 0  # answers that fit a row, but not with their question, left out with it
    questions_left_out: int = 0  # such answers that are learnt without their question
    beyond_bound: int = 0  # answers left out because each needs an example of its own, and a dialogue may have so many
    seams: int = 0  # answers whose first token an engine would merge with the prompt's last, once they are in its past
    altered: int = 0  # messages that the template writes otherwise than they are
    reasoning_left_out: int = 0  # messages whose reasoning the template doesn't write
    own_examples: int = 0  # beyond the first, because the template writes answers otherwise once the dialogue goes on
    closed: int = 0  # last answers to which an end was added


# What is told with a count: the name of each count in `Encoded`, and what it says.
TOLD = {
    "altered": "message that the template writes otherwise than it is, without white space at its ends for example",
    "reasoning_left_out": "message whose reasoning the template doesn't write",
    "beyond_bound": "answer left out: the template needs an example for each, and spec.template.maxExamplesPerDialogue bounds them",
    "closed": "last answer that the template leaves open, closed by the token that a next turn shows",
    "seams": "answer whose beginning merges with its prompt's end in a plain encoding: encoded apart, as it is generated",
    "own_examples": "example of its own for an answer that the template writes otherwise once the dialogue goes on",
}


def labels_from_spans(input_ids: Sequence[int], supervised: Sequence[range]) -> list[int]:
    """Copy of `input_ids` with IGNORE_INDEX outside the `supervised` ranges. Not shifted.

    >>> labels_from_spans([1, 7, 8, 9, 2], [range(3, 5)])
    [-100, -100, -100, 9, 2]
    """
    labels = [IGNORE_INDEX] * len(input_ids)
    for span in supervised:
        labels[span.start : span.stop] = input_ids[span.start : span.stop]
    return labels


class EncodedDialogue(NamedTuple):
    """A dialogue, or the beginning of one, as ids."""

    ids: list[int]
    answers: list[tuple[int, range]]  # position of the message (-1: the template's own system turn), what is learnt of it
    starts: dict[int, int]  # where the text of each message begins
    seams: int = 0
    rendered: Rendered | None = None  # the text, where it was encoded as a whole

    def example(self, taught: Sequence[int], masking: Masking, *, leads: bool) -> Example:
        """`taught`: messages to be learnt. `leads`: this is the beginning of the dialogue, where `masking: blog` learns the system turn."""
        wanted = frozenset(taught)
        if masking == "all":
            return Example(self.ids, self._everything(wanted))
        return Example(self.ids, [span for message, span in self.answers if span and (message in wanted or (message < 0 and leads))])

    def _everything(self, wanted: frozenset[int]) -> list[range]:
        """From the end of an answer to the end of the next: each stretch is learnt with its answer, the rest with the last."""
        spans: list[range] = []
        position = 0
        for number, (message, span) in enumerate(self.answers):
            stop = len(self.ids) if number == len(self.answers) - 1 else span.stop
            if message in wanted and stop > position:
                joins = bool(spans) and spans[-1].stop == position
                spans = [*spans[:-1], range(spans[-1].start, stop)] if joins else [*spans, range(position, stop)]
            position = stop
        return spans
