"""What the data was like: counted while it is prepared, kept in meta.json, shown in the report and the model card.

In: what was read, dropped and encoded, piece by piece. Out: a JSON object. Counts by source and reason, so that nothing that is
left out is left out silently.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune_trainer.data.cards import HubCard
from finetune_trainer.data.dialogues import Dropped, Parsed
from finetune_trainer.preparation.encoding import Chunk, EncodedChunk
from finetune_trainer.preparation.examples import TOLD
from finetune_trainer.preparation.store import Integers

NOTHING_TO_LEARN = "no answer to learn from"
TAUGHT_ELSEWHERE = "every answer is learnt from an earlier path of its tree"
OTHER_REASONS = "other reasons"
OVERLONG_ANSWER = "answer longer than a row"
CUT_ANSWER = "answer longer than a row, cut"
QUESTION_LEFT_OUT = "question left out: it does not fit a row with its answer"
EXCHANGE_LEFT_OUT = "question and answer left out: the two do not fit a row (spec.training.maxSequenceLength)"

_KEPT_REASONS = 40  # reasons that name a position in a row could be many
_KEPT_PLACES = 3  # of each reason
_KEPT_SAMPLES = 4
_HISTOGRAM_BINS = 16


@dataclass(slots=True, kw_only=True)
class PartStatistics:
    """One source, on one reading."""

    name: str
    card: HubCard = field(default_factory=HubCard)  # what its own README.md says of it
    commit: str | None = None  # of the Hub
    dialogues: int = 0
    segments: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    split_dialogues: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rendered: Counter[str] = field(default_factory=Counter)  # what the template does to dialogues that are used
    places: dict[str, list[str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)  # sentences about choices made, and about what of the rows is not read

    def add_dropped(self, reason: str, source: str, row: int) -> None:
        """Count a reason, and remember where it was met first."""
        if reason not in self.dropped and len(self.dropped) >= _KEPT_REASONS:
            reason = OTHER_REASONS
        self.dropped[reason] += 1
        self._add_place(reason, source, row)

    def _add_place(self, reason: str, source: str, row: int) -> None:
        places = self.places.setdefault(reason, [])
        if len(places) < _KEPT_PLACES:
            places.append(f"{source} row {row}")

    def add_encoded(self, chunk: Chunk, encoded: EncodedChunk, supervised_tokens: int) -> None:
        """Count a chunk."""
        self.dialogues += encoded.dialogues
        self.segments += len(encoded.lengths)
        self.tokens += int(encoded.lengths.sum())
        self.supervised_tokens += supervised_tokens
        self.split_dialogues += encoded.split
        known = [position for position in encoded.empty if chunk.known[position]]
        concerned = (
            (TAUGHT_ELSEWHERE, known),
            (NOTHING_TO_LEARN, sorted(set(encoded.empty) - set(known) - set(encoded.dropped_turns) - set(encoded.dropped_exchanges))),
            (OVERLONG_ANSWER, encoded.dropped_turns),
            (CUT_ANSWER, encoded.cut_turns),
            (QUESTION_LEFT_OUT, encoded.questions_left_out),
            (EXCHANGE_LEFT_OUT, encoded.dropped_exchanges),
        )
        for reason, positions in concerned:
            for position in positions:
                self.add_dropped(reason, chunk.dialogues[position].source, chunk.dialogues[position].row)
        for position, reason in encoded.refused:
            self.add_dropped(reason, chunk.dialogues[position].source, chunk.dialogues[position].row)
        for name, positions in encoded.told.items():
            for position in positions:
                self.rendered[TOLD[name]] += 1
                self._add_place(TOLD[name], chunk.dialogues[position].source, chunk.dialogues[position].row)

    def to_json(self) -> dict[str, Any]:
        """One entry of `sources`."""
        return {
            "name": self.name,
            "card": self.card.to_json(),
            "commit": self.commit,
            "dialogues": self.dialogues,
            "segments": self.segments,
            "tokens": self.tokens,
            "supervised_tokens": self.supervised_tokens,
            "split_dialogues": self.split_dialogues,
            "dropped": dict(self.dropped.most_common()),
            "places": self.places,
            "told": [*self.told, *(f"{count:,} x {reason}" for reason, count in self.rendered.most_common())],
        }


@dataclass(slots=True, kw_only=True)
class Statistics:
    """All parts, the trees of both sides, and a few examples to look at."""

    parts: list[PartStatistics]
    trees: dict[str, set[int]] = field(default_factory=lambda: {"train": set(), "evaluation": set()})
    samples: list[dict[str, Any]] = field(default_factory=list)
    invalid: int = 0  # rows that could not be read

    def add_dropped(self, part: int, dropped: Dropped) -> None:
        """Count what a row did not give."""
        self.invalid += dropped.kind == "invalid"
        self.parts[part].add_dropped(dropped.reason, dropped.source, dropped.row)

    def add_dialogue(self, side: str, dialogue: Parsed) -> None:
        """Count its tree. Names are kept as numbers: this grows with the data."""
        self.trees[side].add(hash(dialogue.tree))

    def add_encoded(self, chunk: Chunk, encoded: EncodedChunk, supervised_tokens: int, tokenizer: Tokenizer) -> None:
        """Count a chunk; the first ones give the samples."""
        self.parts[chunk.part].add_encoded(chunk, encoded, supervised_tokens)
        if chunk.side == "train" and len(self.samples) < _KEPT_SAMPLES and len(encoded.lengths):
            self.samples += samples(self.parts[chunk.part].name, encoded, tokenizer)[: _KEPT_SAMPLES - len(self.samples)]

    def to_json(self, train_lengths: Integers) -> dict[str, Any]:
        """The `statistics` of meta.json. `train_lengths` are those of all training segments."""
        tokens, supervised = (sum(getattr(part, what) for part in self.parts) for what in ("tokens", "supervised_tokens"))
        return {
            "sources": [part.to_json() for part in self.parts],
            "lengths": histogram(train_lengths),
            "trees": {side: len(trees) for side, trees in self.trees.items()},
            "supervised_share": supervised / tokens if tokens else 0.0,
            "samples": self.samples,
        }


def samples(name: str, encoded: EncodedChunk, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first segments of a chunk as text, the learnt part marked."""
    stops = np.cumsum(encoded.lengths)[:_KEPT_SAMPLES].tolist()
    found = []
    for number, (start, stop) in enumerate(zip([0, *stops], stops, strict=False), start=1):
        pieces = decoded_pieces(encoded.ids[start:stop], encoded.supervised[start:stop], tokenizer)
        found.append({"origin": f"{name}, segment {number}", "pieces": pieces})
    return found


def decoded_pieces(ids: NDArray[Any], supervised: NDArray[Any], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Stretches of text: learnt, not learnt, and so on."""
    pieces = []
    for learnt, stretch in groupby(zip(ids.tolist(), supervised.tolist(), strict=True), key=lambda pair: bool(pair[1])):
        text = tokenizer.decode([token for token, _ in stretch], skip_special_tokens=False)
        pieces.append({"text": text, "supervised": learnt})
    return pieces


def histogram(lengths: Integers) -> list[tuple[int, int, int]]:
    """(lower, upper, count) in rising order, the last upper bound included.

    >>> histogram(np.array([1, 2, 2, 33]))[:2]
    [(1, 3, 3), (3, 5, 0)]
    """
    if len(lengths) == 0:
        return []
    low, high = int(lengths.min()), int(lengths.max())
    step = max(-(-(high - low) // _HISTOGRAM_BINS), 1)
    edges = np.arange(low, max(high, low + 1) + step, step)
    counts, _ = np.histogram(lengths, edges)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
