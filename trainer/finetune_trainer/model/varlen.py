"""FlashAttention over all segments of a row at once, on a GPU: torch's `varlen_attn`, and what its kernel wants.

What it wants is read from torch 2.13, its Python and the messages of its CUDA library: 16 bits, compute capability 8.0, at most 256 wide
heads in multiples of 8 with unit stride, no dropout. On a GPU this is tried by `make test-gpu`; elsewhere by a kernel of the tests' own.

Shapes: H query heads, K key and value heads, T tokens, D head width.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

_WIDEST = 256


def runs_on(query: Tensor, dropout: float) -> bool:
    """Whether the kernel takes such queries (1, H, T, D), and this torch has it."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16) or dropout > 0.0 or query.shape[-1] > _WIDEST:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0) and _varlen_attn() is not None


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int, *, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention inside each segment: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    `offsets`: int32 on the same device, where segments begin and end. `window`: keys that a query sees, its own among them.
    """
    kernel, width = _varlen_attn(), query.shape[-1]
    assert kernel is not None, "runs_on says so"
    states = (_padded(t[0].transpose(0, 1)) for t in (query, key, value))
    output = kernel(
        *states,
        offsets,
        offsets,
        longest,
        longest,
        scale=width**-0.5 if scaling is None else scaling,  # by itself the kernel would take the padded width's
        window_size=(-1 if window is None else window - 1, 0),  # keys before a query's own, and after it
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast(Tensor, output)[None, ..., :width]


def _padded(states_THD: Tensor) -> Tensor:
    """States as wide as the kernel wants them; zeros change neither products nor sums.

    On compute capability 8.6 to 8.9 and 12.0 its backward pass has nothing between 192 and 225.
    """
    width = states_THD.shape[-1]
    wanted = 232 if 192 < width <= 224 else -(-width // 8) * 8
    states_THD = pad(states_THD, (0, wanted - width)) if wanted > width else states_THD
    return states_THD if states_THD.stride(-1) == 1 else states_THD.contiguous()


@cache
def _varlen_attn() -> Callable[..., Any] | None:
    """torch's function; None where this torch has it not, or not with windows yet."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys() else None
