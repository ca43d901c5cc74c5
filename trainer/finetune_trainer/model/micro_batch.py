"""What a model is given at once: packed rows as one flat sequence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
