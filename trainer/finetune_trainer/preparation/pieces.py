"""The examples of a dialogue that is longer than a row: stretches of turns, each with the system message, within the row's length.

In: the ids of the whole dialogue and how a stretch is encoded. Out: examples, and counts of what was left out. Lengths of stretches come
from the whole dialogue's ids, so that the cost grows with its length; where they are estimates, what was made is measured again.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import Encoded, EncodedDialogue, Example, OverlongTurns
from finetune_trainer.preparation.overlong import Piece, pieces
from finetune_trainer.templates.turns import Template, Tools

# (messages, tools, positions of answers) -> the stretch as one text
EncodeStretch = Callable[[Sequence[Message], Tools, Sequence[int]], EncodedDialogue]


@dataclass
class Pieces:
    """One dialogue. Positions of messages count from after its system message, which begins every stretch."""

    encode: EncodeStretch
    dialogue: Dialogue
    whole: EncodedDialogue
    targets: Sequence[int]
    max_length: int
    overlong_turns: OverlongTurns
    template: Template

    def __post_init__(self) -> None:
        self._before = int(self.dialogue.messages[0].role == "system")
        self._begins = [span.start for _, span in self.whole.answers]

    def add_to(self, encoded: Encoded) -> None:
        """Add examples and counts. Raises Unrendered."""
        roles = [message.role for message in self.dialogue.messages[self._before :]]
        targets = [target - self._before for target in self.targets]
        alone = self.template.answers_stand_alone and self.overlong_turns == "cut"
        for piece in pieces(roles, targets, self._length, self.max_length, alone=alone):
            found = self._fitting(piece, roles) if piece.fits else None
            if found is not None:
                encoded.examples.append(found)
                encoded.questions_left_out += roles[piece.start] == "assistant" and piece.start > 0
            elif self.overlong_turns == "cut" and (cut := self._cut(piece)):
                encoded.examples.append(cut)
                encoded.cut_turns += 1
            elif self._length(piece.start, piece.stop) <= self.max_length:
                encoded.dropped_exchanges += 1
            else:
                encoded.dropped_turns += 1

    def _length(self, start: int, stop: int) -> int:
        """Of a stretch, in tokens: exact where turns are encoded apart."""
        starts, end = self.whole.starts, len(self.whole.ids)
        first = starts.get(self._before, 0)
        return first + starts.get(stop + self._before, end) - starts.get(start + self._before, 0)

    def _stretch(self, start: int, stop: int) -> EncodedDialogue:
        """The system message and messages start..stop, with positions of the whole dialogue."""
        before = self._before
        if self.whole.rendered is None:
            return self._sliced(start + before, stop + before)
        messages = [*self.dialogue.messages[:before], *self.dialogue.messages[start + before : stop + before]]
        asked = [target - start for target in self._targets(start, stop)]
        made = self.encode(messages, self.dialogue.tools, asked)
        answers = [(message + start if message >= before else message, span) for message, span in made.answers]
        return EncodedDialogue(ids=made.ids, answers=answers, starts={}, rendered=made.rendered)

    def _sliced(self, start: int, stop: int) -> EncodedDialogue:
        whole = self.whole
        first = whole.starts[self._before]
        begin, end = whole.starts[start], whole.starts.get(stop, len(whole.ids))
        inside = whole.answers[bisect_left(self._begins, max(begin, first)) : bisect_left(self._begins, end)]
        moved = [(message, range(span.start - begin + first, span.stop - begin + first)) for message, span in inside]
        kept = whole.answers[: bisect_left(self._begins, first)]
        return EncodedDialogue(ids=whole.ids[:first] + whole.ids[begin:end], answers=[*kept, *moved], starts={})

    def _targets(self, start: int, stop: int) -> Sequence[int]:
        """Of messages start..stop."""
        return self.targets[bisect_left(self.targets, start + self._before) : bisect_left(self.targets, stop + self._before)]

    def _example(self, start: int, stop: int, first_taught: int) -> Example:
        new = self._targets(first_taught, stop)
        leads = first_taught + self._before == self.targets[0]
        return self._stretch(start, stop).example(new, self.template.masking, leads=leads)

    def _fitting(self, piece: Piece, roles: Sequence[str]) -> Example | None:
        """The stretch, with fewer turns before its first new answer where an estimate was too small."""
        start = piece.start
        while True:
            found = self._example(start, piece.stop, piece.first_taught)
            if len(found.input_ids) <= self.max_length:
                return found if found.num_supervised else None
            following = next((index for index in range(start + 1, piece.first_taught) if roles[index] == "user"), None)
            if following is None:
                return None
            start = following

    def _cut(self, piece: Piece) -> Example | None:
        """The beginning of an answer that is longer than a row; with its question, if that leaves it half of the row."""
        question = piece.start - 1
        alone = self.template.answers_stand_alone
        keeps_question = question >= 0 and (not alone or self._length(question, piece.start) <= self.max_length // 2)
        whole = self._example(question if keeps_question else piece.start, piece.stop, piece.first_taught)
        spans = [range(span.start, min(span.stop, self.max_length)) for span in whole.supervised if span.start < self.max_length]
        cut = Example(whole.input_ids[: self.max_length], spans)
        return cut if cut.num_supervised else None
