"""The loss: the sum of cross entropies over supervised tokens, computed inside the module that owns the head's weight.

In: a causal language model of Transformers. Out: a module whose forward takes one packed row with labels already shifted and
returns a scalar. Only supervised rows of the hidden states meet the head, a chunk at a time, and their gradients are made in
the forward, so logits of a whole row never exist. The head runs inside its own module's forward because ZeRO-3 gathers a weight
only there. Division by the number of supervised tokens is the engine's business.

Shapes: T tokens of the row, N supervised ones, C of a chunk, D hidden width, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from finetune_api.errors import InvalidModel
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

# Logits of a chunk, in elements: 64 MiB in fp32. Larger does not make the products faster.
_CHUNK_ELEMENTS = 2**24

# Fields of a config that change logits after the head; a loss that ignores them trains another model.
_LOGIT_FIELDS = {"final_logit_softcapping": (None,), "logit_scale": (None, 1.0), "logits_scaling": (None, 1.0)}


class _CrossEntropySum(torch.autograd.Function):
    """Sum of cross entropies and, in the same pass, the gradients of hidden states, weight and bias."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, differentiate: bool) -> Tensor:
        loss = torch.zeros((), dtype=_accumulator(weight_VD), device=hidden_ND.device)
        grad_hidden = torch.zeros_like(hidden_ND) if differentiate else None
        grad_weight = torch.zeros_like(weight_VD, dtype=loss.dtype) if differentiate else None
        grad_bias = torch.zeros_like(bias_V, dtype=loss.dtype) if differentiate and bias_V is not None else None
        rows = max(1, _CHUNK_ELEMENTS // weight_VD.shape[0])
        for start in range(0, hidden_ND.shape[0], rows):
            hidden, labels = hidden_ND[start : start + rows], labels_N[start : start + rows, None]
            logits_CV = linear(hidden, weight_VD, bias_V).to(loss.dtype)
            normalizer_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            loss += (normalizer_C1 - logits_CV.gather(1, labels)).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            error_CV = logits_CV.sub_(normalizer_C1).exp_()  # softmax, in the logits' memory
            error_CV.scatter_add_(1, labels, torch.full_like(normalizer_C1, -1.0))
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
        return scaled_hidden, grad_weight.mul_(scale).to(ctx.weight_dtype), scaled_bias, None, None


def _accumulator(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def cross_entropy_sum(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Sum over N of the cross entropy of `linear(hidden, weight, bias)` against labels, an fp32 scalar (fp64 in fp64).

    N = 0 gives 0 that still has (zero) gradients, so that a rank without a supervised token takes part in every collective.
    """
    return cast(Tensor, _CrossEntropySum.apply(hidden_ND, weight_VD, bias_V, labels_N, torch.is_grad_enabled()))  # type: ignore[no-untyped-call]


class LossHead(nn.Linear):
    """A head that returns the loss when it gets labels, and logits when it does not."""

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: A002  (torch's own name)
        if labels is None:
            return super().forward(input)
        return cross_entropy_sum(input, self.weight, self.bias, labels)


class LossModel(nn.Module):
    """A language model that returns the summed loss of one packed row, or its logits. `model` keeps its own parameter names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *, input_ids: Tensor, position_ids: Tensor, labels: Tensor | None = None, **boundaries: Any) -> Tensor:
        """Sum of cross entropies, an fp32 scalar; without labels the logits (T, V).

        input_ids, position_ids, labels: (1, T); labels[t] is the target of position t, or IGNORE_INDEX.
        """
        model = cast(Any, self.model)
        output = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **boundaries)
        hidden_TD, head = output.last_hidden_state[0], model.get_output_embeddings()
        if labels is None:
            return cast(Tensor, head(hidden_TD))
        labels_T = labels[0]
        supervised = (labels_T != IGNORE_INDEX).nonzero()[:, 0]
        return cast(Tensor, head(hidden_TD[supervised], labels=labels_T[supervised]))


def install_loss_head(model: nn.Module) -> LossModel:
    """`model` with its head turned into a LossHead in place, wrapped in a LossModel. Parameters keep their names and identity.

    Raises InvalidModel for an architecture whose logits are more than a linear map of the last hidden states.
    """
    name, config = type(model).__name__, cast(Any, model).config
    for field, neutral in _LOGIT_FIELDS.items():
        if getattr(config, field, None) not in neutral:
            raise InvalidModel(f"{name} changes its logits by {field}={getattr(config, field)}, which is not supported; use another model")
    head = cast(Any, model).get_output_embeddings()
    if type(head) not in (nn.Linear, LossHead):
        raise InvalidModel(f"{name} has no linear head ({type(head).__name__}), so it can't be trained here; use another architecture")
    head.__class__ = LossHead  # in place: hooks, tied weights and names stay
    return LossModel(model)


def check_loss(model: nn.Module) -> None:
    """Refuse an architecture whose own logits give another loss than LossModel: its forward does more than base model and head.

    `model`: a small random copy, as in `attention.check_isolation`. Raises InvalidModel naming the architecture.
    """
    ids = torch.tensor([[3, 5, 7, 2]])
    offsets = torch.tensor([0, 4], dtype=torch.int32)
    boundaries = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": 4, "max_length_k": 4}
    inputs = {"input_ids": ids, "position_ids": torch.arange(4)[None], **boundaries}
    labels = torch.tensor([[5, 7, IGNORE_INDEX, 1]])
    with torch.no_grad():
        logits = cast(Any, model.eval())(use_cache=False, **inputs).logits[0]
        expected = nn.functional.cross_entropy(logits.float(), labels[0], reduction="sum")
        got = install_loss_head(model)(labels=labels, **inputs)
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5):
        name = type(model).__name__
        raise InvalidModel(f"{name} does more between hidden states and logits than a linear head; use another architecture")
