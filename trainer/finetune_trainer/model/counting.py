"""The shape of a model whose family the contract has no formula for: counted on the model itself, built without memory.

In: a config.json as a mapping. Out: a ModelShape. What Transformers doesn't build (layers for multi-token prediction) isn't counted, and
buffers aren't parameters. Imports torch and Transformers, so it is asked only where there is no formula.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import ModelShape
from finetune_api.model_shape import sliding_window
from finetune_trainer.model.build import quietly, without_memory

# One thing, many names: the first one that a config has counts.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "vocabulary_size": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
_INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_OF_EXPERT = ("moe_intermediate_size", "expert_ffn_hidden_size")
_SHARED = ("shared_expert_intermediate_size", "shared_intermediate_size")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts")


def counted_shape(config: Mapping[str, Any], name: str, source: str) -> ModelShape:
    """The shape of the model that a config.json describes. No memory is taken. Raises InvalidModel, naming `source`."""
    try:
        with quietly():
            made = AutoConfig.for_model(**config)
            model = without_memory(made, "eager")
    except Exception as error:  # a config can be wrong in as many ways as there are architectures
        raise InvalidModel(f"{source}: no model can be made from it ({type(error).__name__}: {error}); check the file") from error
    sizes = {parameter: math.prod(parameter.shape) for parameter in model.parameters()}
    experts = sum(sizes[parameter] for key, parameter in model.named_parameters() if ".experts." in key)
    hidden = _number(made, "hidden_size", source)
    heads = _first(made, NAMES["attention_heads"])
    window, windowed = sliding_window(made.to_dict(), _number(made, "layers", source))
    return ModelShape(
        architecture=name,
        layers=_number(made, "layers", source),
        hidden_size=hidden,
        intermediate_size=_intermediate(made, hidden),
        attention_heads=heads or 1,  # none in a state space model: a head of width 1 costs next to nothing
        key_value_heads=_first(made, ("num_key_value_heads", "num_kv_heads")) or heads or 1,
        head_size=_head_size(made, hidden, heads),
        vocabulary_size=_number(made, "vocabulary_size", source),
        positions=_first(made, NAMES["positions"]),
        parameters=sum(sizes.values()),
        active_parameters=_active(made, sum(sizes.values()), experts),
        sliding_window=window,
        sliding_layers=windowed,
    )


def _intermediate(config: Any, hidden: int) -> int:
    """Width of the feed-forward layer that one token meets, the widest layer's: of all experts that it is sent to, and of shared ones."""
    width = _first(config, _INTERMEDIATE) or 4 * hidden
    chosen = _first(config, _CHOSEN) if _first(config, _EXPERTS) else None
    if not chosen:
        return width
    of_expert = _first(config, _OF_EXPERT) or width
    shared = _first(config, _SHARED) or of_expert * (_first(config, ("n_shared_experts",)) or 0)
    return max(width, chosen * of_expert + shared)


def _active(config: Any, parameters: int, experts: int) -> int | None:
    """Parameters that one token meets, where it meets some of the experts only."""
    number, chosen = _first(config, _EXPERTS), _first(config, _CHOSEN)
    return parameters - experts + experts * chosen // number if experts and number and chosen and chosen < number else None


def _head_size(config: Any, hidden: int, heads: int | None) -> int:
    """Width of a head: of queries and values together half, where they differ (multi-head latent attention)."""
    nope, rope, value = (_first(config, (name,)) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    if nope and value:
        return (nope + (rope or 0) + value) // 2
    return _first(config, ("head_dim",)) or (hidden // heads if heads else 1)


def _number(config: Any, field: str, source: str) -> int:
    found = _first(config, NAMES[field])
    if found is None:
        raise InvalidModel(f"{source}: {NAMES[field][0]} must be a whole number above 0; use another model, or download it again")
    return found


def _first(config: Any, names: Iterable[str]) -> int | None:
    """The first of the settings that is a whole number above 0."""
    values = (_setting(config, name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)


def _setting(config: Any, name: str) -> Any:
    """A setting under any of the names that its config has for it. Some configs raise where layers differ in it (Gemma 4)."""
    try:
        return getattr(config, name, None)
    except Exception:
        return config.to_dict().get(name)
