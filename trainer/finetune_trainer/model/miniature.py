"""A small copy of an architecture, random, on which what is right is found out by trying before weights of its size are read.

In: a model's config. Out: a config of the same class with few heads, experts and tokens, short windows, and as many layers as hold each
kind of layer that the model has and each change from one kind to another; and random models of it, whose effects are large enough to be
seen. Widths that an architecture doesn't let go on their own are kept: the copy is then wider, never another architecture.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import nn

from finetune_api.errors import InvalidModel
from finetune_trainer.model.build import from_config, without_memory
from finetune_trainer.model.counting import NAMES

VOCABULARY = 32
WINDOW = 4
# A copy may be this large; nothing that Transformers has comes near it where its widths can be reduced.
_MOST_PARAMETERS = 5 * 10**8

_LAYERS = (*NAMES["layers"], "decoder_layers", "encoder_layers")
_HEADS = NAMES["attention_heads"]
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
# How many heads are tried.
_FEW_HEADS = (4, 2, 3, 6, 8, 5, 12)
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts", "n_group"), 2),
    **dict.fromkeys(("topk_group", "n_groups", "mamba_n_groups"), 1),
}
_WINDOWS = ("sliding_window", "attention_chunk_size", "index_topk", "window_size", "attention_window_size", "local_attention")
_POSITIONS = NAMES["positions"]
_WIDTHS = re.compile(r"(intermediate_size|ffn_dim|n_inner|ffn_hidden_size|dff|d_ff|lru_width|mamba_d_ssm|attention_hidden_size)$")
_STATE_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")


def small_config(config: Any, *, narrow: bool, longest: int) -> Any:
    """A config to try. Not `narrow` is for an architecture that can't be built or run with fewer heads: as wide as the model.

    `longest`: tokens of the longest call. What begins beyond it (a temperature of attention, say) never begins in training.
    """
    values = _shortened(_values(config), longest)
    small = _with_few_layers(config, _narrowed(values) if narrow else values)
    size = sum(parameter.numel() for parameter in without_memory(small, "eager").parameters())
    if size > _MOST_PARAMETERS:
        raise InvalidModel(f"a small copy would have {size:,} parameters")
    return small


def random_model(config: Any, attention: str, seed: int = 0) -> Any:
    """A model with weights large enough that no effect hides, fp32; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = from_config(config, torch.float32, attention)
        with torch.no_grad():
            for parameter in model.parameters():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                if parameter.dim() < 2 or spread == 0.0:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif spread < (usual := parameter.shape[-1] ** -0.5):
                    parameter.mul_(usual / spread)
    return model


def kinds_of_layers(config: Any, keys: Sequence[str]) -> list[Any]:
    """What each layer is: its modules and their settings, and what the config's lists `keys` say of it. Layers of one kind are equal."""
    model, count = without_memory(config, "eager"), _number_of_layers(config)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    values = config.to_dict()
    return [(_signature(layer), *(str(values[key][place]) for key in keys)) for place, layer in enumerate(stacks[0])] if stacks else []


def _lists_of_layers(values: dict[str, Any], count: int) -> list[str]:
    """The settings that say something of each layer; not those in which all differ, which are places of layers and tell no kind."""
    listed = {key: value for key, value in sorted(values.items()) if _is_of_layers(key, value, count)}
    return [key for key, value in listed.items() if len({*map(str, value)}) < count]


def _is_of_layers(key: str, value: Any, count: int) -> bool:
    return len(value) == count if isinstance(value, list) or (isinstance(value, str) and "pattern" in key) else False


def _signature(layer: nn.Module) -> tuple[Any, ...]:
    """A layer's modules with their shapes and switches, without its place among the layers."""
    found = []
    for name, module in layer.named_modules():
        switches = {key: value for key, value in vars(module).items() if isinstance(value, bool | str) or value is None}
        switches |= {key: value for key, value in vars(module).items() if "window" in key and isinstance(value, int)}
        shapes = [(key, tuple(tensor.shape)) for key, tensor in module.named_parameters(recurse=False)]
        found.append((name, type(module).__name__, tuple(sorted(map(str, switches.items()))), tuple(shapes)))
    return tuple(found)


def _with_few_layers(config: Any, values: dict[str, Any]) -> Any:
    """A config of as few first layers as hold every kind and every change of kinds; of all layers where no beginning does."""
    whole = _rebuilt(config, values)
    count = _number_of_layers(whole)
    lists = _lists_of_layers(whole.to_dict(), count)
    kinds = kinds_of_layers(whole, lists)
    wanted = {*kinds, *pairwise(kinds)}
    for few in range(2, len(kinds)):
        beginning = kinds[:few]
        if {*beginning, *pairwise(beginning)} != wanted:
            continue
        try:
            cut = _rebuilt(config, _first_layers(values, count, few))
            if kinds_of_layers(cut, lists) == beginning:
                return cut
        except Exception:  # whatever a config says of layers that aren't there
            return whole
        break  # the last layers depend on how many there are (Gemma 3n: layers that share keys and values)
    return whole


def _first_layers(values: dict[str, Any], count: int, few: int) -> dict[str, Any]:
    """The same settings for the first `few` of `count` layers."""
    changed = dict(values)
    for key, value in values.items():
        if key in _LAYERS and value == count:
            changed[key] = few
        elif _is_of_layers(key, value, count):
            changed[key] = value[:few]
        elif (
            isinstance(value, list) and ("layer" in key or "idx" in key or "indices" in key) and all(isinstance(one, int) for one in value)
        ):
            changed[key] = [one for one in value if one < few]
        elif isinstance(value, dict) and value and all(str(one).isdecimal() for one in value):
            changed[key] = {one: settings for one, settings in value.items() if int(one) < few}
    return changed


def _values(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in ("model_type", "transformers_version")}


def _rebuilt(config: Any, values: dict[str, Any]) -> Any:
    """A config of the same class; what it derives from its settings, it derives anew."""
    made = type(config).from_dict(dict(values))
    made.use_cache = False
    return made


def _shortened(values: dict[str, Any], longest: int) -> dict[str, Any]:
    """Few tokens and experts, short windows, and lengths at which an architecture changes so short that the trial meets them."""
    changed = dict(values)
    for key, value in values.items():
        if "vocab_size" in key and _is_count(value):
            changed[key] = min(value, VOCABULARY)
        elif key.endswith(("_token_id", "_token_index")) and value is not None:
            ids = [0 if one >= VOCABULARY else one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]
            changed[key] = ids if isinstance(value, list) else ids[0]
        elif key in _WINDOWS and _is_count(value):
            changed[key] = min(value, WINDOW)
        elif key in _EXPERTS and _is_count(value):
            changed[key] = min(value, _EXPERTS[key])
        elif key == "floor_scale" and _is_count(value) and value <= longest:
            changed[key] = WINDOW
        elif key in _POSITIONS and _is_count(value):
            changed[key] = min(value, 64)
    return _short_frequencies(changed)


def _short_frequencies(values: dict[str, Any]) -> dict[str, Any]:
    """Rotary frequencies that change with the length change within the trial's dialogues."""
    rope = values.get("rope_parameters")
    if not isinstance(rope, dict):
        return values
    several = [value for value in rope.values() if isinstance(value, dict)]
    kinds = [one.get("rope_type") for one in (several or [rope])]
    if not any(kind in ("longrope", "dynamic") for kind in kinds):
        return values

    def short(one: dict[str, Any]) -> dict[str, Any]:
        return {key: WINDOW if "original_max" in key else value for key, value in one.items()}

    changed = {**values, "rope_parameters": {k: short(v) for k, v in rope.items()} if several else short(rope)}
    if "original_max_position_embeddings" in changed:
        changed["original_max_position_embeddings"] = WINDOW
    if "dynamic" in kinds:
        changed |= {key: WINDOW for key in _POSITIONS if _is_count(values.get(key))}
    return changed


def _narrowed(values: dict[str, Any]) -> dict[str, Any]:
    """Few heads of the same width; what is as wide as all heads together shrinks with them."""
    heads_key, heads = next(((key, values[key]) for key in _HEADS if _is_count(values.get(key))), ("", 0))
    hidden = next((values[key] for key in NAMES["hidden_size"] if _is_count(values.get(key))), 0)
    if not heads or not hidden:
        return values
    groups = [key for key in _KEY_VALUE_HEADS if _is_count(values.get(key))]
    own_width = any(_is_count(values.get(key)) for key in ("head_dim", "qk_nope_head_dim")) and hidden % 128 == 0
    own_width &= not any("expand" in key for key in values)  # heads of a state space share out what the hidden size is expanded to
    fits = [few for few in _FEW_HEADS if heads % few == 0 and (own_width or hidden % (heads // few) == 0)]
    few = fits[0] if fits else heads
    factor = hidden // 128 if own_width else heads // few
    changed = {**values, heads_key: few}
    for key in groups:
        changed[key] = few if values[key] == heads else min(values[key], 2 if few % 2 == 0 else 1)
    for key, value in values.items():
        if key in _POSITIONS or "vocab" in key or key == heads_key or key in groups:
            continue
        if value == hidden and _is_count(value):
            changed[key] = hidden // factor
        elif _WIDTHS.search(key):
            changed[key] = [_part(one, factor) for one in value] if isinstance(value, list) else _part(value, factor)
        elif key in _STATE_HEADS and _is_count(value):
            changed[key] = max(1, value // factor)
    return changed


def _part(width: Any, factor: int) -> Any:
    """A part of a width, such as kernels of grouped products take it: a multiple of 16."""
    return max(16, width // factor // 16 * 16) if _is_count(width) else width


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number_of_layers(config: Any) -> int:
    value = getattr(config, "num_hidden_layers", None)
    if not _is_count(value):
        raise InvalidModel(f"{type(config).__name__} doesn't say how many layers it has")
    return int(value)
