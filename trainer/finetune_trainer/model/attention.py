"""Attention that never crosses a dialogue: "finetune_packed", registered with Transformers under that name.

In: the queries, keys and values of one flattened row of packed dialogues, and the dialogues' boundaries as explicit keyword
arguments of `model.forward`. Out: causal attention inside each segment; no dense mask of a row is ever made. `trial.choose_method`
proves that an architecture passes the boundaries on. This room knows nothing of labels, weights or DeepSpeed.

Shapes: B = 1 row, H query heads, K key and value heads, T tokens, D head width, S segments, L tokens of one segment.
"""

from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from finetune_api.errors import InvalidModel
from finetune_trainer.model import varlen
from finetune_trainer.model.micro_batch import MicroBatch

ATTENTION = "finetune_packed"

# What `last_layer` reads from the arguments of a layer, which are also those of its attention.
SUPERVISED_ROWS = "supervised_rows"

# Arguments that architectures pass on and that change nothing here. All others but None are refused: one that is ignored would
# train another model. Positions are in the queries and keys already, or, where an architecture needs them here, found out by the trial.
_WITHOUT_EFFECT = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "deterministic",
        SUPERVISED_ROWS,
    }
)

# Queries whose scores are written out at once, where no kernel of torch's does what is asked for.
_SCORED_QUERIES = 1024


def boundary_arguments(row: MicroBatch, device: torch.device) -> dict[str, Any]:
    """The keyword arguments of `model.forward` that `packed_attention` needs."""
    return boundaries(row, torch.as_tensor(row.cu_seq_lens, dtype=torch.int32, device=device))


def boundaries(row: MicroBatch, offsets: Tensor) -> dict[str, Any]:
    """`boundary_arguments` with the offsets where the model computes.

    Lengths go along as Python numbers: what a layer read from the device, it would have to wait for.
    """
    lengths = tuple(np.diff(row.cu_seq_lens).tolist())
    longest = {"max_length_q": row.max_length, "max_length_k": row.max_length}
    return {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, **longest, "segment_lengths": lengths}


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    segment_lengths: tuple[int, ...] | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment of one row: query (1, H, T, D), key (1, K, T, D), value (1, K, T, Dv) -> (1, T, H, Dv).

    `softcap`: scores become softcap * tanh(scores / softcap). `s_aux` (H,): learned sinks, one more score that a query may attend to
    and that has no value. Raises InvalidModel when the boundaries did not arrive (an architecture that consumes them would otherwise
    attend across dialogues without a word), or when the architecture asks for something that is not done here.
    """
    name = type(module).__name__
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None or segment_lengths is None:
        raise InvalidModel(f"{name} does not pass the boundaries of packed dialogues on to attention")
    asked = sorted(argument for argument, value in others.items() if value is not None and argument not in _WITHOUT_EFFECT)
    if asked or attention_mask is not None or is_causal is False:
        what = ", ".join(asked) or ("a mask of its own" if attention_mask is not None else "a view of later tokens")
        raise InvalidModel(f"{name} needs attention with {what}, which packed attention has not")
    offsets, lengths, longest = cu_seq_lens_q, segment_lengths, max_length_q
    if (size := _chunk_size(module)) is not None and size < longest:
        offsets, lengths, longest = *_in_chunks(lengths, size, offsets.device), size
    width = value.shape[-1]
    value = pad(value, (0, query.shape[-1] - width)) if width < query.shape[-1] else value  # kernels want one width
    if softcap is None and s_aux is None and varlen.runs_on(query):
        output = varlen.varlen_attention(query, key, value, offsets, longest, scaling=scaling, window=sliding_window, dropout=dropout)
    else:
        attend = partial(_segment, window=sliding_window, scaling=scaling, dropout=dropout)
        if softcap is not None or s_aux is not None:
            attend = partial(_scored, window=sliding_window, scaling=scaling, dropout=dropout, softcap=softcap, sinks=s_aux)
        output = _per_segment(query, key, value, lengths, attend)
    return output[..., :width], None


def register() -> None:
    """Make "finetune_packed" known to Transformers. Safe to call twice.

    Not as a maker of masks: attention without one is called with none, and nobody looks at the positions to find out what is packed,
    for which a GPU would have to be waited for.
    """
    AttentionInterface.register(ATTENTION, packed_attention)


def _chunk_size(module: nn.Module) -> int | None:
    """Of a layer with chunked attention (Llama 4), which says its kind in its config only; Transformers' own attention has it in a mask."""
    config = getattr(module, "config", None)
    size, kinds = getattr(config, "attention_chunk_size", None), getattr(config, "layer_types", None)
    return size if size is not None and kinds and kinds[cast(Any, module).layer_idx] == "chunked_attention" else None


@lru_cache(maxsize=1)
def _in_chunks(lengths: tuple[int, ...], size: int, device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
    """Offsets and lengths of chunks, counted from each dialogue's start: the same for all layers of a call."""
    chunks = tuple(min(size, length - start) for length in lengths for start in range(0, length, size))
    return torch.tensor(np.cumsum([0, *chunks]), dtype=torch.int32, device=device), chunks


def _per_segment(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], attend: Any) -> Tensor:
    """`attend` once per segment: cost is the sum of squared lengths, and torch's kernels never hold a whole matrix."""
    heads = query.shape[1]
    parts = zip(
        *(torch.split(t, list(lengths), dim=2) for t in (query, _for_each_head(key, heads), _for_each_head(value, heads))), strict=True
    )
    return torch.cat([attend(q, k, v).transpose(1, 2) for q, k, v in parts], dim=1)  # contiguous: some architectures view it


def _segment(query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scaling: float | None, dropout: float) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout, scale=scaling)
    band = _visible(0, length, length, window, query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=band, dropout_p=dropout, scale=scaling)


def _visible(first: int, stop: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """Which of `length` keys the queries [first, stop) see: (stop - first, length)."""
    distance = torch.arange(first, stop, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _scored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One segment with its scores written out: what torch's kernels can't do. A block of queries at a time, made again in the backward."""
    length, scaling = query.shape[2], query.shape[-1] ** -0.5 if scaling is None else scaling
    sinks = None if sinks is None else sinks.clone()  # ZeRO-3 may have taken the parameter back when a block is made again

    def block(q: Tensor, k: Tensor, v: Tensor, first: int, start: int) -> Tensor:
        scores = torch.matmul(q, k.transpose(2, 3)) * scaling  # (1, H, queries, keys)
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        seen = _visible(first - start, first - start + q.shape[2], k.shape[2], window, q.device)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        if sinks is not None:
            column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
            scores = torch.cat([scores, column], dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., : k.shape[2]]
        return torch.matmul(torch.dropout(weights, dropout, dropout > 0).to(v.dtype), v)

    outputs = []
    for first in range(0, length, _SCORED_QUERIES):
        stop = min(first + _SCORED_QUERIES, length)
        start = 0 if window is None else max(0, first - window + 1)
        part = (query[:, :, first:stop], key[:, :, start:stop], value[:, :, start:stop], first, start)
        outputs.append(cast(Tensor, checkpoint(block, *part, use_reentrant=False)) if length > _SCORED_QUERIES else block(*part))
    return torch.cat(outputs, dim=2)


def _for_each_head(states: Tensor, heads: int) -> Tensor:
    """Keys or values (1, K, T, D) as (1, H, T, D). A view for multi-query; torch's CPU kernel has no grouped heads of its own."""
    batch, groups, length, width = states.shape
    if groups == heads:
        return states
    return states[:, :, None].expand(batch, groups, heads // groups, length, width).reshape(batch, heads, length, width)
