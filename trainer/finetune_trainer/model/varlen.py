"""FlashAttention over all segments of a row at once, on a GPU: torch's operator, and what its kernel wants.

What it wants is read from torch 2.13, its Python and the messages of its CUDA library: 16 bits, compute capability 8.0, at most 256 wide
heads in multiples of 8 with unit stride. torch's public `varlen_attn` calls the same operator, without dropout and without its gradient.
On a GPU this is tried by `make test-gpu`; elsewhere by a kernel of the tests' own, and by shapes alone.

Shapes: H query heads, K key and value heads, T tokens, D head width.
"""

from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

_WIDEST = 256
# Arguments by name, as torch 2.13 has them; an older torch has no windows.
_ARGUMENTS = {"query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "scale", "window_size_left"}


def runs_on(query: Tensor) -> bool:
    """Whether the kernel takes such queries (1, H, T, D), and this torch has it."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] > _WIDEST:
        return False
    return _capability(query.device) >= (8, 0) and _is_known()


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    longest: int,
    *,
    scaling: float | None,
    window: int | None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention inside each segment: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    `offsets`: int32 on the same device, where segments begin and end. `window`: keys that a query sees, its own among them.
    """
    width = query.shape[-1]
    states = (_padded(t[0].transpose(0, 1)) for t in (query, key, value))
    output, *_ = torch.ops.aten._flash_attention_forward(
        *states,
        offsets,
        offsets,
        longest,
        longest,
        dropout,
        window is None,  # causal; with a window that is the window's right side
        False,  # no matrix for debugging
        scale=width**-0.5 if scaling is None else scaling,  # by itself the kernel would take the padded width's
        window_size_left=-1 if window is None else window - 1,  # keys before a query's own
        window_size_right=0,
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
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _is_known() -> bool:
    """Whether this torch has the operator, with windows."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    return operator is not None and {argument.name for argument in operator.default._schema.arguments} >= _ARGUMENTS
