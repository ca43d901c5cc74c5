"""What a model is given at once: packed rows as one flat sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Packed rows one after another, without padding. T tokens in S segments; a segment is one example.

    `labels[t]` is the target of position t, already shifted: IGNORE_INDEX at the last position of each segment.
    """

    input_ids: Integers  # (T,)
    labels: Integers  # (T,)
    position_ids: Integers  # (T,), from 0 in each segment
    cu_seq_lens: NDArray[np.int32]  # (S + 1,), where segments begin and end
    max_length: int  # tokens of the longest segment
    num_supervised: int  # labels that count in the loss


def joined(segments: Sequence[Sequence[int]]) -> MicroBatch:
    """Segments as one row in which every token but the first of each is learnt."""
    return flat_micro_batch([np.asarray(one) for one in segments], [np.append(np.asarray(one)[1:], IGNORE_INDEX) for one in segments])


def single_dialogues(row: MicroBatch) -> list[MicroBatch]:
    """Each segment as a micro-batch of its own: for architectures in which dialogues of a row would see one another."""
    return [flat_micro_batch([row.input_ids[start:stop]], [row.labels[start:stop]]) for start, stop in pairwise(row.cu_seq_lens.tolist())]


def flat_micro_batch(ids: Sequence[NDArray[np.integer]], labels: Sequence[NDArray[np.integer]]) -> MicroBatch:
    """Segments with their labels, which are shifted already."""
    lengths = [len(segment) for segment in ids]
    targets = np.concatenate(labels).astype(np.int64)
    return MicroBatch(
        input_ids=np.concatenate(ids).astype(np.int64),
        labels=targets,
        position_ids=np.concatenate([np.arange(length) for length in lengths]),
        cu_seq_lens=np.cumsum([0, *lengths]).astype(np.int32),
        max_length=max(lengths),
        num_supervised=int((targets != IGNORE_INDEX).sum()),
    )


def empty_micro_batch() -> MicroBatch:
    """One token and nothing to learn: what a rank computes when it has no row, so that it takes part in every collective."""
    return joined([[0]])
