"""A model's config.json -> its ModelShape, with the parameters counted exactly, without building the model.

Parameter counts follow the modelling code of Transformers 5; the test compares them with published sizes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import ModelShape


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a parsed config.json. Raises InvalidModel for an architecture or a config that we can't count.

    >>> tiny = dict(architectures=["GPTBigCodeForCausalLM"], n_layer=1, n_embd=4, n_head=2, n_positions=8, vocab_size=10)
    >>> shape_from_config(tiny).parameters  # 40 + 32 embeddings, 16 norms, 60 attention, 148 feed-forward, 8 last norm
    304
    """
    name = _architecture(config)
    try:
        family = _FAMILIES[name]
    except KeyError:
        raise InvalidModel(
            f"config.json: architecture {name} is not one that we can count the parameters of; "
            f"known are {', '.join(sorted(_FAMILIES))}; for another decoder-only model give spec.model.shape"
        ) from None
    dimensions = family.read(config)
    window, windowed = sliding_window(_with_windows(name, config, dimensions.layers), dimensions.layers)
    return ModelShape(
        architecture=name,
        layers=dimensions.layers,
        hidden_size=dimensions.hidden,
        intermediate_size=dimensions.intermediate,
        attention_heads=dimensions.heads,
        key_value_heads=dimensions.key_value_heads,
        head_size=dimensions.head,
        vocabulary_size=dimensions.vocabulary,
        positions=dimensions.positions,
        parameters=family.count(config, dimensions),
        sliding_window=window,
        sliding_layers=windowed,
    )


def can_count(config: Mapping[str, Any]) -> bool:
    """Whether the config's architecture is one whose parameters we can count without its weights."""
    return _architecture(config) in _FAMILIES


def sliding_window(config: Mapping[str, Any], layers: int) -> tuple[int | None, int | None]:
    """Tokens that layers with a window see, and how many layers these are, of a config that leaves nothing to a class's defaults.

    Both None without any; the second None where all have one.

    >>> sliding_window({"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, layers=2)
    (8, 1)
    """
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not isinstance(window, int) or window < 1:
        return None, None
    if not isinstance(kinds, list):
        return window, None
    windowed = sum(kind == "sliding_attention" for kind in kinds[:layers])
    return (window, windowed if windowed < layers else None) if windowed else (None, None)


def _with_windows(name: str, config: Mapping[str, Any], layers: int) -> Mapping[str, Any]:
    """The config's sliding windows as its class has them, where config.json leaves them out."""
    given, window, kinds = config.get("layer_types"), config.get("sliding_window", 4096), None
    match name:
        case "MistralForCausalLM":
            pass
        case "Qwen2ForCausalLM" | "Qwen3ForCausalLM":
            window = window if config.get("use_sliding_window") else None
            kinds = _kinds(index >= (config.get("max_window_layers", 28)) for index in range(layers))
        case "Gemma2ForCausalLM":
            kinds = _kinds(index % 2 == 0 for index in range(layers))
        case "Gemma3ForCausalLM":
            kinds = _kinds((index + 1) % (config.get("sliding_window_pattern") or 6) > 0 for index in range(layers))
        case "Phi3ForCausalLM" | "Starcoder2ForCausalLM":
            window = config.get("sliding_window")
        case _:
            window = None
    return {"sliding_window": window, "layer_types": given or kinds}


def _kinds(windowed: Iterable[bool]) -> list[str]:
    return ["sliding_attention" if one else "full_attention" for one in windowed]


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        return names[0]
    raise InvalidModel(f'config.json: architectures is {names!r}; it must name one class, for example ["LlamaForCausalLM"]')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dimensions:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    positions: int

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head

    @property
    def key_value(self) -> int:
        """Width of all key heads, or of all value heads."""
        return self.key_value_heads * self.head


@dataclass(frozen=True, slots=True)
class _Family:
    read: Callable[[Mapping[str, Any]], _Dimensions]
    count: Callable[[Mapping[str, Any], _Dimensions], int]


def _number(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A positive whole number of the config."""
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = "has none" if value is None else f"says {value!r}"
        raise InvalidModel(f"config.json: {name} must be a whole number above 0, and it {found}; use another model, or download it again")
    return value


def _head(config: Mapping[str, Any], hidden: int, heads: int, given: int | None) -> int:
    """Width of a head: given, or the hidden size shared out."""
    if given is None and hidden % heads:
        raise InvalidModel(f"config.json: hidden size {hidden} is not a multiple of {heads} attention heads")
    return given or hidden // heads


def _gpt2_dimensions(config: Mapping[str, Any]) -> _Dimensions:
    hidden, heads = _number(config, "n_embd"), _number(config, "n_head")
    multi_query = _architecture(config) == "GPTBigCodeForCausalLM" and config.get("multi_query", True)
    return _Dimensions(
        layers=_number(config, "n_layer"),
        hidden=hidden,
        intermediate=_number(config, "n_inner", 4 * hidden),
        heads=heads,
        key_value_heads=1 if multi_query else heads,
        head=_head(config, hidden, heads, None),
        vocabulary=_number(config, "vocab_size"),
        positions=_number(config, "n_positions", 1024),
    )


def _llama_dimensions(config: Mapping[str, Any]) -> _Dimensions:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    default_head = _DEFAULT_HEADS.get(_architecture(config))
    given = _number(config, "head_dim", default_head) if config.get("head_dim") or default_head else None
    return _Dimensions(
        layers=_number(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_number(config, "intermediate_size"),
        heads=heads,
        key_value_heads=_number(config, "num_key_value_heads", heads),
        head=_head(config, hidden, heads, given),
        vocabulary=_number(config, "vocab_size"),
        positions=_number(config, "max_position_embeddings", 2048),
    )


# Classes whose head width isn't hidden size / heads where config.json doesn't say.
_DEFAULT_HEADS: Final = {"GemmaForCausalLM": 256, "Gemma2ForCausalLM": 256, "Gemma3ForCausalLM": 256, "Qwen3ForCausalLM": 128}


def _tied(config: Mapping[str, Any], default: bool) -> bool:
    """Whether head and embedding are one matrix."""
    return bool(config.get("tie_word_embeddings", default))


def _gpt2_parameters(config: Mapping[str, Any], d: _Dimensions) -> int:
    """GPT-2 and GPTBigCode: biases everywhere, learned positions, norms with bias."""
    attention = d.hidden * (d.query + 2 * d.key_value) + d.query + 2 * d.key_value + d.query * d.hidden + d.hidden
    feed_forward = 2 * d.hidden * d.intermediate + d.intermediate + d.hidden
    embeddings = (d.vocabulary + d.positions) * d.hidden + (0 if _tied(config, True) else d.vocabulary * d.hidden)
    return embeddings + d.layers * (attention + feed_forward + 4 * d.hidden) + 2 * d.hidden


def _llama_parameters(config: Mapping[str, Any], d: _Dimensions) -> int:
    """Llama and its relatives: gated feed-forward, RMS norms, rotary positions."""
    name = _architecture(config)
    attention = d.hidden * (d.query + 2 * d.key_value) + d.query * d.hidden
    if name == "Qwen2ForCausalLM" or config.get("attention_bias"):
        attention += d.query + 2 * d.key_value
    if name != "Qwen2ForCausalLM" and config.get("attention_bias"):
        attention += d.hidden
    if name in ("Qwen3ForCausalLM", "Gemma3ForCausalLM"):
        attention += 2 * d.head  # norms of queries and keys
    feed_forward = 3 * d.hidden * d.intermediate + (2 * d.intermediate + d.hidden if config.get("mlp_bias") else 0)
    norms = (4 if name in ("Gemma2ForCausalLM", "Gemma3ForCausalLM") else 2) * d.hidden
    heads = 1 if _tied(config, name.startswith("Gemma")) else 2
    return heads * d.vocabulary * d.hidden + d.layers * (attention + feed_forward + norms) + d.hidden


def _starcoder2_parameters(config: Mapping[str, Any], d: _Dimensions) -> int:
    """StarCoder2: plain feed-forward, biases by option, norms with bias."""
    bias = bool(config.get("use_bias", True))
    attention = d.hidden * (d.query + 2 * d.key_value) + d.query * d.hidden + (d.query + 2 * d.key_value + d.hidden if bias else 0)
    feed_forward = 2 * d.hidden * d.intermediate + (d.intermediate + d.hidden if bias else 0)
    heads = 1 if _tied(config, True) else 2
    return heads * d.vocabulary * d.hidden + d.layers * (attention + feed_forward + 4 * d.hidden) + 2 * d.hidden


def _neox_parameters(config: Mapping[str, Any], d: _Dimensions) -> int:
    """GPT-NeoX and Pythia: plain feed-forward, biases, norms with bias, the head apart."""
    bias = bool(config.get("attention_bias", True))
    attention = 4 * d.hidden * d.hidden + (4 * d.hidden if bias else 0)
    feed_forward = 2 * d.hidden * d.intermediate + d.intermediate + d.hidden
    heads = 1 if _tied(config, False) else 2
    return heads * d.vocabulary * d.hidden + d.layers * (attention + feed_forward + 4 * d.hidden) + 2 * d.hidden


_GPT2 = _Family(_gpt2_dimensions, _gpt2_parameters)
_LLAMA = _Family(_llama_dimensions, _llama_parameters)
_FAMILIES: Final = {
    "GPTBigCodeForCausalLM": _GPT2,
    "GPT2LMHeadModel": _GPT2,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "GemmaForCausalLM": _LLAMA,
    "Gemma2ForCausalLM": _LLAMA,
    "Gemma3ForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _LLAMA,
    "Starcoder2ForCausalLM": _Family(_llama_dimensions, _starcoder2_parameters),
    "GPTNeoXForCausalLM": _Family(_llama_dimensions, _neox_parameters),
}

# Classes whose feed-forward layer is two matrices, not three.
PLAIN_FEED_FORWARD: Final = frozenset({"GPTBigCodeForCausalLM", "GPT2LMHeadModel", "Starcoder2ForCausalLM", "GPTNeoXForCausalLM"})
