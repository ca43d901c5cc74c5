"""The numbers of a model that memory and time depend on, from config.json and the headers of its safetensors.

In: a config as a mapping, and the tensors that the files hold. Out: a ModelShape. Without torch where the
contract has a formula for the family; else the model is built without memory and counted (`counting`).
"""

import math
from collections.abc import Mapping
from typing import Any

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import ModelShape
from finetune_api.model_shape import can_count, shape_from_config

# Buffers that old checkpoints hold among their weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq", ".position_ids")


def read_shape(config: Mapping[str, Any], *, source: str, tensors: Mapping[str, tuple[int, ...]] | None = None) -> ModelShape:
    """The shape that a config.json describes. `tensors`: names and shapes of the stored weights, None for random ones.

    `source` names the config in messages. Raises InvalidModel when a number is missing or none.
    """
    name = architecture(config, source)
    if can_count(config):
        try:
            shape = shape_from_config(config)
        except InvalidModel as error:
            raise InvalidModel(str(error).replace("config.json", source, 1)) from None
        # Files may hold other heads than the config's default, and nothing that Transformers doesn't build.
        return shape if tensors is None else shape.model_copy(update={"parameters": parameters_of(tensors, tied=_tied(config))})
    from finetune_trainer.model.counting import counted_shape  # torch: only for a family without a formula

    return counted_shape(config, name, source)


def architecture(config: Mapping[str, Any], source: str) -> str:
    """The Transformers class that config.json names; refused unless it is a causal language model of Transformers' own."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    if name is None:
        raise InvalidModel(f'{source} names no architecture; add `architectures`, for example ["LlamaForCausalLM"]')
    if config.get("is_encoder_decoder") or not name.endswith(("ForCausalLM", "LMHeadModel")):
        raise InvalidModel(f"{source}: {name} is no decoder-only language model; use one whose architecture ends in ForCausalLM")
    if config.get("auto_map"):
        raise InvalidModel(f"{source}: {name} needs Python code of the model's own, which is never run; use another architecture")
    if config.get("quantization_config"):
        raise InvalidModel(f"{source}: the weights are quantized, which can't be fine-tuned in full; use the model in bf16 or fp32")
    return name


def parameters_of(tensors: Mapping[str, tuple[int, ...]], *, tied: bool) -> int:
    """Parameters that files hold, a tied head counted once.

    >>> parameters_of({"model.embed_tokens.weight": (10, 4), "lm_head.weight": (10, 4), "norm.weight": (4,)}, tied=True)
    44
    """
    left_out = (*_BUFFERS, "lm_head.weight") if tied else _BUFFERS
    return sum(math.prod(shape) for name, shape in tensors.items() if not name.endswith(left_out))


def _tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the input embedding. Transformers' default is yes for the older families and no for Llama's."""
    return bool(config.get("tie_word_embeddings", config.get("model_type") in ("gpt_bigcode", "gpt2", "opt", "gemma")))
