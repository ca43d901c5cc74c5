"""Parts of a model's last layer that compute supervised tokens only.

After the last layer's attention nothing looks at another token's state, and the head takes supervised tokens only. So what treats each
token by itself there, such as the feed-forward network, need not compute the others: their output is zero, which nobody sees. In a chat
half of all tokens are not supervised. Whether an architecture's last layer is such, `trial` finds out by its gradients.

Shapes: T tokens, N supervised ones, D hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from finetune_trainer.model.attention import SUPERVISED_ROWS

# Names that architectures give to such parts, all of them and fewer: the first way that is right is taken.
_FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_PROJECTIONS = ("q_proj", "o_proj", "c_proj", "dense", "out_proj", "wo")


def ways(layer: nn.Module) -> list[tuple[str, ...]]:
    """Which parts may compute supervised tokens only, the most first; never none."""
    named, children = {name for name, _ in layer.named_modules()}, dict(layer.named_children())
    attention = [name for name in _ATTENTION if name in children]
    feed_forward = tuple(name for name in _FEED_FORWARD if name in named)
    projections = tuple(f"{one}.{part}" for one in attention for part in _PROJECTIONS if f"{one}.{part}" in named)
    found = ((*projections, *feed_forward), feed_forward) if attention else ()
    return [way for index, way in enumerate(found) if way and way not in found[:index]]


@dataclass(slots=True)
class _Call:
    """What the layer computes at the moment."""

    rows_N: Tensor | None = None
    num_tokens: int = 0


def compute_supervised_rows_only(layer: nn.Module, parts: Sequence[str]) -> None:
    """From now on the parts of the layer compute only the tokens that its keyword argument `supervised_rows` (N,) names; without it all.

    The argument is read where attention gets it: that is called again with the same one when activations are recomputed, and the layer
    itself is not.
    """
    call = _Call()

    def forget(_: nn.Module, __: tuple[Any, ...]) -> None:
        call.rows_N = None

    def look_up(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states_1TD = given[0] if given else named["hidden_states"]
        call.rows_N, call.num_tokens = named.get(SUPERVISED_ROWS), states_1TD.shape[1]

    def gather(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if call.rows_N is None else (given[0].index_select(1, call.rows_N), *given[1:])

    def scatter(_: nn.Module, __: tuple[Tensor, ...], made_1ND: Tensor) -> Tensor | None:
        if call.rows_N is None:
            return None
        return made_1ND.new_zeros(1, call.num_tokens, made_1ND.shape[-1]).index_copy(1, call.rows_N, made_1ND)

    layer.register_forward_pre_hook(forget)
    children = dict(layer.named_children())
    next(children[name] for name in _ATTENTION if name in children).register_forward_pre_hook(look_up, with_kwargs=True)
    for name in parts:
        part = layer.get_submodule(name)
        part.register_forward_pre_hook(gather)
        part.register_forward_hook(scatter)
