"""Rotary frequencies that depend on a sequence's length, computed for each dialogue and not for the row that it is packed in.

`longrope` takes other frequencies beyond the original length, `dynamic` other ones for each length; Transformers decides by the longest
position of the whole row, and `dynamic` remembers the longest sequence so far. Both are made a function of one dialogue's length alone.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def separate_frequencies(model: nn.Module) -> None:
    """Change `model`'s rotary embeddings in place, where their frequencies depend on the length."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any(isinstance(kind, str) and ("dynamic" in kind or kind == "longrope") for kind in kinds):
            module.forward = partial(_each_dialogue, module, module.forward)


def _each_dialogue(module: Any, forward: Any, x: Tensor, position_ids: Tensor, *arguments: Any, **named: Any) -> Any:
    """What `forward` gives for each dialogue alone, joined. position_ids: (1, T), from 0 in each dialogue; x gives device and type only."""
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist() or [0]
    parts = []
    for start, stop in zip(starts, [*starts[1:], position_ids.shape[1]], strict=True):
        _forget(module)
        parts.append(forward(x, position_ids[:, start:stop], *arguments, **named))
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=1)
    return tuple(torch.cat(one, dim=1) for one in zip(*parts, strict=True))


def _forget(module: Any) -> None:
    """Put back the frequencies of a sequence that is not long."""
    for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq") and "original" not in name]:
        prefix = name.removesuffix("inv_freq")
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if original is not None:
            setattr(module, name, original.to(getattr(module, name).device, copy=True))
            if hasattr(module, f"{prefix}max_seq_len_cached"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
