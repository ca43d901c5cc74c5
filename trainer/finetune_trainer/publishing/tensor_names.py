"""Names and shapes of tensors as models are published, which is not always how Transformers holds them in memory.

Transformers 5 renames on loading, and joins the experts of a mixture into one tensor; `save_pretrained` undoes it, and every other
program knows only what was published. In: a model without memory. Out: for each published tensor, which range of which tensor of the
checkpoint it is, so that it can be read in pieces.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True, slots=True)
class Piece:
    """A published tensor: a range, beginning at `offset`, of the flat tensor `source`."""

    source: str
    offset: int
    shape: tuple[int, ...]


def published_tensors(model: Any, names: Collection[str]) -> dict[str, Piece]:
    """By published name the tensors `names` of `model`, whose weights are on torch's meta device.

    Where a published tensor is no range of one that we have (two families of 5.23 join tensors), all keep their names in memory.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    held = {name: state[name].detach() for name in names}
    storages = {tensor.untyped_storage()._cdata: name for name, tensor in held.items()}
    with _views_only():
        published = revert_weight_conversion(model, dict(held))
    as_held = {name: Piece(name, 0, tuple(tensor.shape)) for name, tensor in held.items()}
    pieces = {}
    for name, tensor in published.items():
        source = storages.get(tensor.untyped_storage()._cdata)
        if source is None or not tensor.is_contiguous():
            return as_held
        pieces[name] = Piece(source, tensor.storage_offset(), tuple(tensor.shape))
    assert sum(prod(one.shape) for one in pieces.values()) == sum(prod(one.shape) for one in as_held.values()), "a tensor was lost"
    return as_held if pieces == as_held else pieces


@contextmanager
def _views_only() -> Iterator[None]:
    """Copies are not made: what is cut out of a tensor goes on pointing into it, and so says where it comes from."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Views(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return args[0] if func in (torch.Tensor.contiguous, torch.Tensor.clone) else func(*args, **(kwargs or {}))

    with Views():
        yield
