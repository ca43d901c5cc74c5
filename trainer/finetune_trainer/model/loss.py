"""The loss: the sum of cross entropies over supervised tokens, computed inside the module that owns the head's weight.

In: a causal language model of Transformers. Out: a module whose forward takes one packed row with labels already shifted and
returns a scalar. Only supervised rows of the hidden states meet the head, a chunk at a time, and their gradients are made in
the forward, so logits of a whole row never exist. The head runs inside its own module's forward because ZeRO-3 gathers a weight
only there. Factors and bounds on logits are part of it. A model whose logits are more than that makes its own, of a whole row. Division by
the number of supervised tokens is the engine's business.

Shapes: T tokens of the row, N supervised ones, C of a chunk, D hidden width, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from finetune_trainer.model.method import Method
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

# Logits of a chunk, in elements: 64 MiB in fp32. Larger does not make the products faster.
_CHUNK_ELEMENTS = 2**24


class _CrossEntropySum(torch.autograd.Function):
    """Sum of cross entropies and, in the same pass, the gradients of hidden states, weight and bias."""

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
    ) -> Tensor:
        loss = torch.zeros((), dtype=_accumulator(weight_VD), device=hidden_ND.device)
        grad_hidden = torch.zeros_like(hidden_ND) if differentiate else None
        grad_weight = torch.zeros_like(weight_VD, dtype=loss.dtype) if differentiate else None
        grad_bias = torch.zeros_like(bias_V, dtype=loss.dtype) if differentiate and bias_V is not None else None
        rows = max(1, _CHUNK_ELEMENTS // weight_VD.shape[0])
        for start in range(0, hidden_ND.shape[0], rows):
            hidden, labels = hidden_ND[start : start + rows], labels_N[start : start + rows, None]
            logits_CV = linear(hidden, weight_VD, bias_V).to(loss.dtype)
            slope_CV = _bend(logits_CV, factor, bound)
            normalizer_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            loss += (normalizer_C1 - logits_CV.gather(1, labels)).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            error_CV = logits_CV.sub_(normalizer_C1).exp_()  # softmax, in the logits' memory
            error_CV.scatter_add_(1, labels, torch.full_like(normalizer_C1, -1.0))
            if slope_CV is not None:
                error_CV.mul_(slope_CV)
            error = error_CV.to(hidden.dtype)
            torch.mm(error, weight_VD, out=grad_hidden[start : start + rows])
            if error.dtype == grad_weight.dtype:
                grad_weight.addmm_(error.t(), hidden)
            else:
                grad_weight += error.t() @ hidden
            if grad_bias is not None:
                grad_bias += error_CV.sum(dim=0)
        ctx.gradients = grad_hidden, grad_weight, grad_bias
        ctx.weight_dtype = weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        grad_hidden, grad_weight, grad_bias = ctx.gradients
        ctx.gradients = None  # V x D in fp32: gone before the layers' backward needs room
        # Scaled in fp32: a scale rounded to bf16 would change every gradient by up to 0.4 % in the same direction.
        scaled_hidden = (grad_hidden.to(scale.dtype) * scale).to(grad_hidden.dtype)
        scaled_bias = None if grad_bias is None else grad_bias.mul_(scale).to(ctx.weight_dtype)
        return scaled_hidden, grad_weight.mul_(scale).to(ctx.weight_dtype), scaled_bias, None, None, None, None


def _accumulator(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


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


def cross_entropy_sum(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, *, factor: float = 1.0, bound: float | None = None
) -> Tensor:
    """Sum over N of the cross entropy of logits against labels, an fp32 scalar (fp64 in fp64).

    Logits: `linear(hidden, weight, bias)`, times `factor`, kept within `bound` by bound * tanh(logits / bound). N = 0 gives 0 that
    still has (zero) gradients, so that a rank without a supervised token takes part in every collective.
    """
    arguments = (hidden_ND, weight_VD, bias_V, labels_N, torch.is_grad_enabled(), factor, bound)
    return cast(Tensor, _CrossEntropySum.apply(*arguments))  # type: ignore[no-untyped-call]


class LossHead(nn.Linear):
    """A head that returns the loss when it gets labels, and logits when it does not."""

    factor: float = 1.0
    bound: float | None = None

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: A002  (torch's own name)
        if labels is None:
            return super().forward(input)
        return cross_entropy_sum(input, self.weight, self.bias, labels, factor=self.factor, bound=self.bound)


class LossModel(nn.Module):
    """A language model that returns the summed loss of one call, or its logits. `model` keeps its own parameter names.

    A call is a row of packed dialogues with their boundaries, or one dialogue alone where the method is not packed.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self._method = model, method
        # Routers of experts that draw random numbers while training (Mixtral, Phi-MoE, DBRX): another function than at inference.
        self._never_random = [module for module in model.modules() if any("jitter" in name for name in vars(module))]

    def train(self, mode: bool = True) -> "LossModel":
        """Training mode, except for what would add noise that nobody asked for."""
        super().train(mode)
        for module in self._never_random:
            module.training = False
        return self

    def forward(self, *, input_ids: Tensor, position_ids: Tensor, labels: Tensor | None = None, **boundaries: Any) -> Tensor:
        """Sum of cross entropies, an fp32 scalar; without labels the logits (T, V).

        input_ids, position_ids, labels: (1, T); labels[t] is the target of position t, or IGNORE_INDEX.
        """
        inputs = {"position_ids": position_ids, "use_cache": False, **boundaries} if self._method.packed else {}
        if labels is None or self._method.logits is None:
            logits_TV = cast(Any, self.model)(input_ids=input_ids, **inputs).logits[0]
            return cast(Tensor, logits_TV) if labels is None else _own_loss(logits_TV, labels[0])
        hidden_TD = language_body(self.model)(input_ids=input_ids, **inputs).last_hidden_state[0]
        supervised = (labels[0] != IGNORE_INDEX).nonzero()[:, 0]
        return cast(Tensor, cast(Any, self.model).get_output_embeddings()(hidden_TD[supervised], labels=labels[0][supervised]))


def _own_loss(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    supervised = (labels_T != IGNORE_INDEX).nonzero()[:, 0]
    logits = logits_TV[supervised]
    return cross_entropy(logits.to(_accumulator(logits)), labels_T[supervised], reduction="sum")


def language_body(model: nn.Module) -> Any:
    """What comes before the head. Some classes name themselves as their own base model (Llama 4)."""
    base = cast(Any, model).base_model
    return base if base is not model else cast(Any, model).model


def install_loss_head(model: nn.Module, method: Method | None = None) -> LossModel:
    """`model` with its head turned into a LossHead in place, wrapped in a LossModel. Parameters keep their names and identity."""
    method = method or Method()
    if method.logits is not None:
        head, config = cast(Any, model).get_output_embeddings(), cast(Any, model).config
        assert type(head) in (nn.Linear, LossHead), "the trial chose a head of the model's own for what is no linear map"
        head.__class__ = LossHead  # in place: hooks, tied weights and names stay
        head.factor, head.bound = method.logits.factor(config), method.logits.bound(config)
    return LossModel(model, method)
