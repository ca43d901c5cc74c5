"""A base model whose layers are in 4 bits, by bitsandbytes: what QLoRA trains adapters beside.

In: settings for Transformers' own `from_pretrained`, which quantises each weight as it reads it, so that nobody holds the whole model in
more. Out: that model, whose linear layers (all but the head) make their weights of 4 bits whenever they compute. Weights are NF4 with
scales that are quantised too, rounded from the arithmetic of the run and made back into it; embeddings, head and norms stay as they are.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune_api.errors import InvalidModel

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

# On some CPUs bitsandbytes 0.50 warns, when it is imported, of a kernel for inference that nobody installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def check_available(asked_by: str) -> None:
    """Raise InvalidModel where bitsandbytes is not there or can't compute. `asked_by`: the field that asks for it, with its value."""
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, 64), quant_type="nf4", compress_statistics=True))
    except (ImportError, OSError, RuntimeError) as error:
        told = f"{asked_by} needs the package bitsandbytes, which does not run here ({error})"
        raise InvalidModel(f"{told}; install it (pip install 'bitsandbytes>=0.50'), or do without it") from error


def quantisation(dtype: torch.dtype) -> "BitsAndBytesConfig":
    """What `from_pretrained` is told. `dtype`: the arithmetic of the run."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def is_quantised(weight: Any) -> bool:
    """Whether it is kept in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def num_elements(parameter: Any) -> int:
    """Weights of a parameter, of which a quantised one has two in a byte."""
    return int(parameter.quant_state.shape.numel() if is_quantised(parameter) else parameter.numel())


def whole(weight: Any) -> Tensor:
    """A weight (outputs, inputs) in the arithmetic of the run: made of its 4 bits, or itself."""
    if not is_quantised(weight):
        return cast(Tensor, weight)
    from bitsandbytes.functional import dequantize_4bit

    return cast(Tensor, dequantize_4bit(weight.data, weight.quant_state))


def round_as(quantised: nn.Module, model: nn.Module) -> None:
    """Give the layers of `model` the values that those of `quantised`, the same in 4 bits, compute with."""
    for name, layer in _quantised_layers(quantised):
        rounded, own = whole(layer.weight), model.get_parameter(f"{name}.weight")
        own.data = (rounded.T if layer.source_cls is Conv1D else rounded).to(own).contiguous()


def _quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if is_quantised(getattr(module, "weight", None)))
