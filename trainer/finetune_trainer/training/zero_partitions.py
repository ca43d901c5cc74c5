"""Where DeepSpeed keeps what a rank owns of each parameter, in logical coordinates. Imports nothing of DeepSpeed.

In: its optimizer for ZeRO-3 or ZeRO-2 (0.19.8). Out: for each parameter the elements that this rank owns and where they lie in a flat fp32
tensor of masters, and so in moments of the same length.

ZeRO-3 cuts every parameter into equal parts, one a rank. ZeRO-2 lays the parameters of a group end to end and cuts that: a rank owns some
parameters whole and parts of at most two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Elements [start, stop) of a flattened parameter: `flat[offset : offset + stop - start]` of the flat tensor number `group`."""

    group: int
    offset: int
    start: int
    stop: int


class Partitions(Protocol):
    """The memory of one rank."""

    @property
    def flats(self) -> Sequence[Tensor]:
        """Masters, flat fp32, one tensor a group: what AdamW updates."""
        ...

    def owned(self, parameter: Any) -> Owned | None:
        """What this rank owns of a parameter; None where that is nothing."""
        ...

    def update_weights(self) -> None:
        """Make weights, in the model's type, of the masters. Collective."""
        ...


def partitions_of(zero: Any, *, stage: int, rank: int, world_size: int) -> Partitions:
    """Those of DeepSpeed's optimizer."""
    return _OfStage3(zero, rank, world_size) if stage == 3 else _OfStage2(zero, rank)


class _OfStage3:
    """A parameter of n elements is cut into ceil(n / world size) each; the last ranks may have less, or nothing, and padding."""

    def __init__(self, zero: Any, rank: int, world_size: int) -> None:
        self._zero, self._rank, self._world_size = zero, rank, world_size

    @property
    def flats(self) -> Sequence[Tensor]:
        flats: Sequence[Tensor] = self._zero.fp32_partitioned_groups_flat
        return flats

    def owned(self, parameter: Any) -> Owned | None:
        size, elements = parameter.ds_tensor.ds_numel, parameter.ds_numel
        assert size == -(-elements // self._world_size), "DeepSpeed cuts a parameter into equal parts, the last one padded"
        start, stop = min(self._rank * size, elements), min((self._rank + 1) * size, elements)
        group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
        return Owned(group=group, offset=offset, start=start, stop=stop) if start < stop else None

    def update_weights(self) -> None:
        """What DeepSpeed does at the end of an optimizer step.

        Without it the first forward still uses the old weights; small parameters, which ZeRO-3 keeps gathered, until the
        step after (DeepSpeed 0.19.8).
        """
        self._zero._partition_all_parameters()
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        self._zero._post_step(set())


class _OfStage2:
    """A group's parameters end to end, with padding between them where DeepSpeed aligns them, and at the end."""

    def __init__(self, zero: Any, rank: int) -> None:
        self._zero, self._rank = zero, rank
        self._places = {
            id(parameter): (group, offset)
            for group, parameters in enumerate(zero.round_robin_bit16_groups)
            for parameter, offset in zip(parameters, zero.round_robin_bit16_offsets[group], strict=True)
        }

    @property
    def flats(self) -> Sequence[Tensor]:
        flats: Sequence[Tensor] = self._zero.single_partition_of_fp32_groups
        return flats

    def owned(self, parameter: Any) -> Owned | None:
        group, place = self._places[id(parameter)]
        size = int(self._zero.partition_size[group])
        first, stop = max(place, self._rank * size), min(place + parameter.numel(), (self._rank + 1) * size)
        return Owned(group=group, offset=first - self._rank * size, start=first - place, stop=stop - place) if first < stop else None

    def update_weights(self) -> None:
        self._zero.update_lp_params()
