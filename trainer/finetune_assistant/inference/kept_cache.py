"""Keys and values of a dialogue between two turns, so that its beginning isn't encoded again.

In: the ids of a prompt, and what transformers' `generate` returned the turn before. Out: the cache of the longest common beginning, or
none. A cache is kept only where taking tokens off its end leaves no trace: plain attention, and sliding windows that aren't full yet.
Recurrent states and full windows have forgotten what they were before, and such a prompt is encoded anew.
"""

from collections.abc import Sequence
from typing import Any


class KeptCache:
    """The cache of one dialogue. For one thread."""

    def __init__(self) -> None:
        self._cache: Any = None
        self._ids: list[int] = []

    def drop(self) -> None:
        """Give the memory back."""
        self._cache, self._ids = None, []

    def taken(self, ids: Sequence[int]) -> tuple[Any, int]:
        """The cache for a prompt and how many of its tokens are in it; (None, 0): encode it all. Nothing is kept until `keep`."""
        cache, held = self._cache, self._ids
        self.drop()
        if cache is None:
            return None, 0
        # The model must be given one token at least to say what comes next.
        common = shared_prefix(held, ids[:-1])
        if common == 0:
            return None, 0
        if common < len(held):
            cache.crop(common - len(held))
        return cache, common

    def keep(self, output: Any) -> None:
        """Take the cache out of what `generate` returned for one sequence with `return_dict_in_generate`."""
        cache = getattr(output, "past_key_values", None)
        if cache is not None and can_be_cropped(cache):
            self._cache = cache
            # The last token was drawn, and not read.
            self._ids = output.sequences[0, : cache.get_seq_length()].tolist()


def can_be_cropped(cache: Any) -> bool:
    """Whether each layer still holds every token that it was given. Layers of other kinds than the two known ones: no."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    def holds_all(layer: Any) -> bool:
        if type(layer) is DynamicSlidingWindowLayer:
            return bool(layer.get_seq_length() < layer.sliding_window)
        return type(layer) is DynamicLayer

    layers = getattr(cache, "layers", ())
    return bool(layers) and all(map(holds_all, layers))


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with in common.

    >>> shared_prefix([1, 2, 3], [1, 2, 4]), shared_prefix([1], [1, 2]), shared_prefix([], [1])
    (2, 1, 0)
    """
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
