"""finetune_trainer/model/counting.py: published sizes, without memory."""

import resource
from typing import Any

import pytest
import transformers

from finetune_api.errors import InvalidModel
from finetune_api.model_shape import shape_from_config
from finetune_trainer.model.counting import counted_shape
from finetune_trainer.model.shape import read_shape

# What Transformers fills in where a config.json leaves it out is part of the count: these are the configs' own numbers.
MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "num_nextn_predict_layers": 1,
}
OLMO_2_7B = {
    "model_type": "olmo2",
    "architectures": ["Olmo2ForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 100352,
    "max_position_embeddings": 4096,
}
BLOOM = {
    "model_type": "bloom",
    "architectures": ["BloomForCausalLM"],
    "hidden_size": 1024,
    "n_head": 16,
    "n_layer": 24,
    "vocab_size": 250880,
}
FALCON = {
    "model_type": "falcon",
    "architectures": ["FalconForCausalLM"],
    "hidden_size": 4544,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "vocab_size": 65024,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "new_decoder_architecture": False,
    "alibi": False,
}


@pytest.mark.parametrize(
    ("config", "parameters", "active"),
    [
        (MIXTRAL, 46_702_792_704, 12_879_925_248),
        (QWEN3_30B, 30_532_122_624, 3_353_032_704),
        (DEEPSEEK_V3, 671_026_404_352, 37_552_282_624),
        (OLMO_2_7B, 7_298_617_344, None),
        (BLOOM, 559_214_592, None),
        (FALCON, 6_921_720_704, None),
    ],
    ids=["Mixtral 8x7B", "Qwen3 30B A3B", "DeepSeek-V3", "OLMo 2 7B", "BLOOM 560m", "Falcon 7B"],
)
def test_published_sizes(config: dict[str, Any], parameters: int, active: int | None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shape = read_shape(config, source="config.json")
    assert shape.parameters == parameters
    assert shape.active_parameters == active
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "no tensor is made (KiB)"


def test_heads_of_latent_attention_have_the_mean_width_of_queries_and_values() -> None:
    assert read_shape(DEEPSEEK_V3, source="config.json").head_size == (128 + 64 + 128) // 2


def test_no_positions_are_no_limit_or_the_class_default() -> None:
    assert read_shape(BLOOM, source="config.json").positions is None
    assert read_shape(FALCON, source="config.json").positions == 2048


def test_layers_that_differ_in_a_setting_are_counted() -> None:
    """Gemma 4's config raises where one asks it for a width that layers differ in."""
    config = transformers.Gemma4TextConfig(architectures=["Gemma4ForCausalLM"])
    shape = read_shape(config.to_dict(), source="config.json")
    assert (shape.layers, shape.hidden_size, shape.positions) == (30, 2304, 131072)


def test_windows_are_those_of_the_layers() -> None:
    config = {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 99,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    shape = read_shape(config, source="config.json")
    assert (shape.sliding_window, shape.sliding_layers) == (128, 2)


WINDOWED: dict[str, dict[str, Any]] = {
    "Mistral without a word": {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "Mistral 0.3": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None},
    "Qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32},
    "Qwen2, used": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "max_window_layers": 5},
    "Gemma 2": {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]},
    "Gemma 3": {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window": 512},
    "Gemma 3, every third": {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 3},
    "Gemma 3, listed": {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "layer_types": ["full_attention"] * 7},
    "Phi-3": {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "sliding_window": 2047},
    "StarCoder2": {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"]},
    "Llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "sliding_window": 99},
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_by_formula_are_those_of_the_class(name: str) -> None:
    """Where config.json leaves them out, the class has defaults, and the contract knows them without Transformers."""
    sizes = {"num_hidden_layers": 7, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = WINDOWED[name] | sizes | {"head_dim": 16, "vocab_size": 99, "pad_token_id": 0}
    formula, counted = shape_from_config(config), counted_shape(config, config["architectures"][0], "config.json")
    expected = (counted.sliding_window, counted.sliding_layers) if name != "Llama" else (None, None)
    assert (formula.sliding_window, formula.sliding_layers) == expected


@pytest.mark.parametrize(
    ("config", "width"),
    [(MIXTRAL, 2 * 14336), (QWEN3_30B, 8 * 768), (DEEPSEEK_V3, 9 * 2048), (OLMO_2_7B, 11008)],
    ids=["Mixtral", "Qwen3 30B A3B", "DeepSeek-V3, one expert shared", "dense"],
)
def test_a_token_meets_the_experts_that_it_is_sent_to(config: dict[str, Any], width: int) -> None:
    assert read_shape(config, source="config.json").intermediate_size == width


def test_buffers_are_no_parameters() -> None:
    """A router's correction is saved with the weights, and nobody trains it."""
    shape = read_shape({**DEEPSEEK_V3, "num_hidden_layers": 4}, source="config.json")
    without = read_shape({**DEEPSEEK_V3, "num_hidden_layers": 3}, source="config.json")
    assert shape.parameters - without.parameters == 7168 * (1536 + 576 + 2 + 256 * 3 * 2048 + 3 * 2048 + 256 + 128 * 128) + 1536 + 512 + (
        1536 * 128 * 192 + 512 * 128 * 256
    )


def test_a_config_of_nothing_is_named() -> None:
    with pytest.raises(InvalidModel, match=r"here: no model can be made from it"):
        read_shape({"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_size": -1}, source="here")
