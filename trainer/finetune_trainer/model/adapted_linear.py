"""Linear layers with a LoRA adapter, each computed in one go.

PEFT's own forward goes over the wide output three times more in each pass; here what the adapter adds is added as the output is made.

Shapes: T tokens, I inputs, O outputs, R rank.
"""

from typing import Any, Final, cast

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor
from torch.nn.functional import linear

from finetune_trainer.model.four_bits import whole

# PEFT's name of an adapter that nobody named.
NAME: Final = "default"


class AdaptedLinear(PeftLinear):  # type: ignore[misc]
    """PEFT's layer around a `nn.Linear`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        return adapted_product(self, x)


def adapted_product(layer: Any, x: Tensor) -> Tensor:
    """What one of PEFT's linear layers makes of x, whether its base is in 4 bits or not."""
    base, a, b = layer.base_layer, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return cast(Tensor, _AdaptedProduct.apply(x, base.weight, base.bias, a, b, layer.scaling[NAME]))  # type: ignore[no-untyped-call]


class _AdaptedProduct(torch.autograd.Function):
    """x W' + bias + scale x A' B', with W and bias frozen. A W in 4 bits is written out for as long as it takes, in each pass again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        made_TO = linear(x_TI, whole(weight_OI), bias_O)
        low_TR = (x_TI @ a_RI.t()).mul_(scale)
        made_TO.addmm_(low_TR, b_OR.t())
        ctx.save_for_backward(x_TI, a_RI, b_OR, low_TR)
        ctx.weight_OI, ctx.scale, ctx.shape = weight_OI, scale, x.shape
        return made_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, a_RI, b_OR, low_TR = ctx.saved_tensors
        grad_TO = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        grad_TR = (grad_TO @ b_OR).mul_(ctx.scale)
        grad_x = (grad_TO @ whole(ctx.weight_OI)).addmm_(grad_TR, a_RI).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_TR.t() @ x_TI, grad_TO.t() @ low_TR, None
