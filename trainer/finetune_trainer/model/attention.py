"""Attention that never crosses a dialogue: "finetune_packed", registered with Transformers under that name.

In: the queries, keys and values of one flattened row of packed dialogues, and the dialogues' boundaries as explicit keyword
arguments of `model.forward`. Out: causal attention inside each segment; no dense mask is ever made. `check_isolation` proves
that an architecture passes the boundaries on. This room knows nothing of labels, weights or DeepSpeed.

Shapes: B = 1 row, H query heads, K key and value heads, T tokens, D head width, S segments.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_api.errors import InvalidModel
from finetune_trainer.model import varlen
from finetune_trainer.model.micro_batch import MicroBatch

ATTENTION = "finetune_packed"

# Arguments with which an architecture asks for arithmetic that is not done here; ignoring one would train another model.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


def boundary_arguments(row: MicroBatch, device: torch.device) -> dict[str, Any]:
    """The keyword arguments of `model.forward` that `packed_attention` needs."""
    offsets = torch.as_tensor(row.cu_seq_lens, dtype=torch.int32, device=device)
    return {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": row.max_length, "max_length_k": row.max_length}


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
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment of one row: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    Raises InvalidModel when the boundaries did not arrive (an architecture that consumes them would otherwise attend across
    dialogues without a word), or when the architecture asks for something that is not done here.
    """
    name = type(module).__name__
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None:
        raise InvalidModel(f"{name} does not pass the boundaries of packed dialogues on to attention; use another architecture")
    asked = [argument for argument in _UNSUPPORTED if others.get(argument) is not None]
    if asked or attention_mask is not None or others.get("is_causal") is False:
        what = ", ".join(asked) or "a mask of its own"
        raise InvalidModel(f"{name} needs attention with {what}, which is not supported; use another architecture")
    if varlen.runs_on(query, dropout):
        output = varlen.varlen_attention(query, key, value, cu_seq_lens_q, max_length_q, scaling=scaling, window=sliding_window)
    else:
        output = _per_segment(query, key, value, cu_seq_lens_q, scaling, dropout, sliding_window)
    return output, None


def no_mask(*_: Any, **__: Any) -> None:
    """The mask of "finetune_packed": none, the boundaries say it all."""
    return


def register() -> None:
    """Make "finetune_packed" known to Transformers. Safe to call twice."""
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, no_mask)


def _per_segment(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    """One causal call per segment: cost is the sum of squared lengths, and torch's kernels never hold a whole matrix."""
    heads = query.shape[1]
    lengths = offsets.diff().tolist()
    parts = zip(*(torch.split(t, lengths, dim=2) for t in (query, _for_each_head(key, heads), _for_each_head(value, heads))), strict=True)
    outputs = [_segment(q, k, v, scaling, dropout, window) for q, k, v in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _segment(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout, scale=scaling)
    position = torch.arange(length, device=query.device)
    distance = position[:, None] - position[None, :]
    band = (distance >= 0) & (distance < window)
    return scaled_dot_product_attention(query, key, value, attn_mask=band, dropout_p=dropout, scale=scaling)


def _for_each_head(states: Tensor, heads: int) -> Tensor:
    """Keys or values (1, K, T, D) as (1, H, T, D). A view for multi-query; torch's CPU kernel has no grouped heads of its own."""
    batch, groups, length, width = states.shape
    if groups == heads:
        return states
    return states[:, :, None].expand(batch, groups, heads // groups, length, width).reshape(batch, heads, length, width)


def check_isolation(model: torch.nn.Module) -> None:
    """Refuse an architecture through which dialogues of a row see one another, or a token sees a later one.

    `model`: a small random copy of the architecture (see `weights.miniature`), attention set to "finetune_packed". One dialogue
    of a packed row is changed; the hidden states of the others, and of the tokens before the change, must not move at all.
    Raises InvalidModel naming the architecture.
    """
    name = type(model).__name__
    hidden = _hidden_states(model)
    before = torch.tensor([3, 5, 7, 2, 6, 4, 1, 8, 9, 2, 3])
    changed = before.clone()
    changed[5:7] = torch.tensor([9, 3])  # inside the second of three segments: [0, 4), [4, 7), [7, 11)
    moved = (hidden(before) - hidden(changed)).abs().amax(dim=-1)
    # Segments share matrix products, so a mixture of experts may round them differently: noise, 1e-7 of the real effect.
    noise = 1e-5 * float(moved[5:7].min())
    if noise == 0.0:
        raise InvalidModel(f"{name}: hidden states do not depend on the tokens in a packed row; use another architecture")
    if float(moved[:4].max()) > noise or float(moved[7:].max()) > noise:
        raise InvalidModel(f"{name} lets dialogues of a packed row see one another; use another architecture, such as Llama or GPTBigCode")
    if float(moved[4]) > noise:
        raise InvalidModel(f"{name} lets a token see later ones: it is no causal language model; use another architecture")


@lru_cache(maxsize=1)
def _check_row() -> tuple[Tensor, Tensor]:
    return torch.tensor([0, 4, 7, 11], dtype=torch.int32), torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3])


def _hidden_states(model: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from the ids of the check's row (T,) to the last hidden states (T, width), without dropout."""
    offsets, positions = _check_row()
    arguments = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": 4, "max_length_k": 4}
    base = cast(Any, model).base_model.eval()

    def hidden(ids: Tensor) -> Tensor:
        with torch.no_grad():
            output = base(input_ids=ids[None], position_ids=positions[None], use_cache=False, **arguments)
        return cast(Tensor, output.last_hidden_state[0])

    return hidden
