"""Sum of cross entropies of a head's logits, and in the same pass the gradients of what the head is given and of its weight.

Logits of all rows at once never exist: a chunk of rows is made, bent, turned into softmax and into gradients in one piece of memory,
which the next chunk takes. On a GPU matrix products are fast where rows begin at multiples of 16 bytes and sizes are multiples of 64; a
vocabulary need not be one. So rows of logits lie apart by a multiple of 64 elements, and what remains of a vocabulary beyond its last
multiple is a narrow product of its own.

Shapes: N supervised tokens, C of a chunk, D hidden width, V vocabulary, K rows of the head that stand elsewhere.
"""

from typing import Any, cast

import torch
from torch import Tensor

# Logits of a chunk, in elements: 64 MiB in fp32. Larger does not make the products faster. `finetune_api.memory` counts them.
_CHUNK_ELEMENTS = 2**24
# Elements: tiles of GPU kernels.
_TILE = 64


def cross_entropy_sum(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    *,
    factor: float = 1.0,
    bound: float | None = None,
    other_rows: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum over N of the cross entropy of logits against labels, an fp32 scalar (fp64 in fp64).

    Logits: `linear(hidden, weight, bias)`, times `factor`, kept within `bound` by bound * tanh(logits / bound). N = 0 gives 0 that
    still has (zero) gradients, so that a rank without a supervised token takes part in every collective. `other_rows`: ids (K) of tokens
    whose rows (K, D), without a bias, stand for those of the weight.
    """
    arguments = (hidden_ND, weight_VD, bias_V, labels_N, torch.is_grad_enabled(), factor, bound, *(other_rows or (None, None)))
    return cast(Tensor, _CrossEntropySum.apply(*arguments))  # type: ignore[no-untyped-call]


def accumulator(weight: Tensor) -> torch.dtype:
    """What sums over tokens are made in."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def chunk_rows(vocabulary_size: int) -> int:
    """Rows whose logits are made at once: a multiple of 128 where there are as many.

    >>> chunk_rows(49_152), chunk_rows(128_256), chunk_rows(2**24)
    (256, 128, 1)
    """
    most = max(1, _CHUNK_ELEMENTS // vocabulary_size)
    return most // 128 * 128 or most


class _CrossEntropySum(torch.autograd.Function):
    """Gradients are made in the forward and scaled in the backward. A head that is not trained spares a third of the work."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        differentiate: bool,
        factor: float,
        bound: float | None,
        ids_K: Tensor | None,
        rows_KD: Tensor | None,
    ) -> Tensor:
        loss = torch.zeros((), dtype=accumulator(weight_VD), device=hidden_ND.device)
        grad_hidden = torch.zeros_like(hidden_ND) if differentiate else None
        grad_weight, grad_bias, grad_rows = (
            torch.zeros_like(one, dtype=loss.dtype) if one is not None and differentiate and needed else None
            for one, needed in ((weight_VD, ctx.needs_input_grad[1]), (bias_V, ctx.needs_input_grad[2]), (rows_KD, True))
        )
        chunks = _Chunks(hidden_ND, weight_VD)
        for start in range(0, hidden_ND.shape[0], chunks.num_rows):
            hidden, labels_C1 = hidden_ND[start : start + chunks.num_rows], labels_N[start : start + chunks.num_rows, None]
            made_CV = chunks.products(hidden, bias_V)
            if ids_K is not None and rows_KD is not None:
                made_CV[:, ids_K] = hidden @ rows_KD.t()
            logits_CV = chunks.in_full(made_CV)
            slope_CV = _bend(logits_CV, factor, bound)
            error_CV = chunks.log_softmax(logits_CV)
            loss -= error_CV.gather(1, labels_C1).sum()
            if grad_hidden is None:
                continue
            error_CV.exp_().scatter_add_(1, labels_C1, torch.full_like(labels_C1, -1.0, dtype=loss.dtype))
            if slope_CV is not None:
                error_CV.mul_(slope_CV)
            if grad_bias is not None:
                grad_bias += error_CV.sum(dim=0)
            error = made_CV.copy_(error_CV) if made_CV is not error_CV else error_CV
            grad_own = grad_hidden[start : start + chunks.num_rows]
            if ids_K is not None and rows_KD is not None and grad_rows is not None:
                error_CK = error[:, ids_K]
                error[:, ids_K] = 0
                grad_rows += error_CK.t() @ hidden
                grad_own += error_CK @ rows_KD
            chunks.add_to_hidden(grad_own, error)
            if grad_weight is not None:
                chunks.add_to_weight(grad_weight, error, hidden)
        ctx.gradients = grad_hidden, grad_weight, grad_bias, grad_rows
        ctx.weight_dtype = weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        grad_hidden, *others = ctx.gradients
        ctx.gradients = None  # V x D in fp32: gone before the layers' backward needs room
        # Scaled in fp32: a scale rounded to bf16 would change every gradient by up to 0.4 % in the same direction.
        scaled_hidden = (grad_hidden.to(scale.dtype) * scale).to(grad_hidden.dtype)
        weight, bias, rows = (None if one is None else one.mul_(scale).to(ctx.weight_dtype) for one in others)
        return scaled_hidden, weight, bias, None, None, None, None, None, rows


class _Chunks:
    """The memory of a chunk's logits, in the model's type and in that of the sum, and the three products with it."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor) -> None:
        self._weight_VD = weight_VD
        vocabulary_size, full = weight_VD.shape[0], accumulator(weight_VD)
        self.num_rows = min(chunk_rows(vocabulary_size), max(1, hidden_ND.shape[0]))
        apart = -(-vocabulary_size // _TILE) * _TILE
        self._made = hidden_ND.new_empty(self.num_rows, apart)
        self._full = self._made if hidden_ND.dtype == full else hidden_ND.new_empty(self.num_rows, apart, dtype=full)
        whole = vocabulary_size // _TILE * _TILE
        self._parts = [part for part in (slice(0, whole), slice(whole, vocabulary_size)) if part.start < part.stop]

    def products(self, hidden_CD: Tensor, bias_V: Tensor | None) -> Tensor:
        """What the linear head makes of a chunk."""
        made_CV = self._made[: len(hidden_CD), : len(self._weight_VD)]
        for part in self._parts:
            torch.mm(hidden_CD, self._weight_VD[part].t(), out=made_CV[:, part])
        return made_CV if bias_V is None else made_CV.add_(bias_V)

    def in_full(self, made_CV: Tensor) -> Tensor:
        """The same in the type of the sum: the same memory where that is the model's own."""
        return made_CV if self._full is self._made else self._full[: made_CV.shape[0], : made_CV.shape[1]].copy_(made_CV)

    def log_softmax(self, logits_CV: Tensor) -> Tensor:
        """Of the logits, in their memory. torch's kernels want rows without gaps, so what lies between them takes part, as nothing."""
        rows = self._full[: logits_CV.shape[0]]
        rows[:, logits_CV.shape[1] :] = -torch.inf
        torch.log_softmax(rows, dim=1, out=rows)
        return logits_CV

    def add_to_hidden(self, total_CD: Tensor, error_CV: Tensor) -> None:
        """Add error @ weight."""
        for part in self._parts:
            total_CD.addmm_(error_CV[:, part], self._weight_VD[part])

    def add_to_weight(self, total_VD: Tensor, error_CV: Tensor, hidden_CD: Tensor) -> None:
        """Add error^T @ hidden, in fp32 for a model in bf16: on a GPU inside the product, elsewhere after it."""
        for part in self._parts:
            total, error = total_VD[part], error_CV[:, part].t()
            if total.dtype == error.dtype:
                total.addmm_(error, hidden_CD)
            elif error.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out"):  # since torch 2.8
                torch.ops.aten.addmm.dtype_out(total, error, hidden_CD, total.dtype, out=total)
            else:
                total += error @ hidden_CD


def _bend(logits: Tensor, factor: float, bound: float | None) -> Tensor | float | None:
    """Scale and bound logits in place: bound * tanh(factor * logits / bound). The slope, by which gradients are multiplied; None is 1."""
    if factor != 1.0:
        logits.mul_(factor)
    if bound is None:
        return None if factor == 1.0 else factor
    bent = logits.div_(bound).tanh_()
    slope = bent.square().neg_().add_(1.0).mul_(factor)
    bent.mul_(bound)
    return slope
