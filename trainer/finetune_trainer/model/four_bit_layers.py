"""Layers of bitsandbytes and PEFT whose weights are in 4 bits, as training computes them. Imported for such models alone."""

from typing import Any, cast

from bitsandbytes import matmul_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch import Tensor, nn

from finetune_trainer.model.adapted_linear import adapted_product


class FourBitLinear(Linear4bit):  # type: ignore[misc]
    """A layer that computes in evaluation what it does in training.

    bitsandbytes' own packs its weight otherwise when it first evaluates on some CPUs (0.50): it rounds to bf16 then, and gives no gradient
    ever after.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        return cast(Tensor, matmul_4bit(x, self.weight, bias=self.bias, quant_state=self.weight.quant_state))


class AdaptedFourBitLinear(PeftLinear4bit):  # type: ignore[misc]
    """PEFT's layer around one in 4 bits."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        return adapted_product(self, x)


def use_training_arithmetic(model: nn.Module) -> None:
    """Turn bitsandbytes' own layers of a model into ours, in place."""
    for module in model.modules():
        if type(module) is Linear4bit:
            module.__class__ = FourBitLinear


def add_in_one_go(module: nn.Module) -> None:
    """Turn one of PEFT's layers around a layer in 4 bits into ours, in place; others stay."""
    if type(module) is PeftLinear4bit:
        module.__class__ = AdaptedFourBitLinear
