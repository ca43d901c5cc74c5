import pytest
from tests.api.jobs import STARCODERBASE

from finetune_api.errors import InvalidModel
from finetune_api.model_shape import shape_from_config

STARCODERBASE_CONFIG = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "n_layer": 40,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_positions": 8192,
    "vocab_size": 49152,
    "multi_query": True,
}
SMOLLM2_135M_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def llama(name, hidden, inner, layers, heads, key_values, vocabulary, **more):
    return {
        "architectures": [name],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_values,
        "max_position_embeddings": 4096,
        "vocab_size": vocabulary,
        **more,
    }


def test_starcoderbase():
    assert shape_from_config(STARCODERBASE_CONFIG) == STARCODERBASE


def test_smollm2_135m():
    assert shape_from_config(SMOLLM2_135M_CONFIG).parameters == 134_515_008


@pytest.mark.parametrize(
    ("config", "parameters"),  # published sizes, exact
    [
        (llama("LlamaForCausalLM", 4096, 11008, 32, 32, 32, 32000, tie_word_embeddings=False), 6_738_415_616),
        (llama("MistralForCausalLM", 4096, 14336, 32, 32, 8, 32000, tie_word_embeddings=False), 7_241_732_096),
        (llama("Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True), 494_032_768),
        (llama("Qwen3ForCausalLM", 1024, 3072, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True), 596_049_920),
        (llama("GemmaForCausalLM", 2048, 16384, 18, 8, 1, 256000, head_dim=256), 2_506_172_416),
        (llama("Gemma2ForCausalLM", 2304, 9216, 26, 8, 4, 256000, head_dim=256), 2_614_341_888),
        (llama("Starcoder2ForCausalLM", 3072, 12288, 30, 24, 2, 49152), 3_030_371_328),
        (llama("GPTNeoXForCausalLM", 512, 2048, 6, 8, 8, 50304, tie_word_embeddings=False), 70_426_624),
        ({"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257}, 124_439_808),
    ],
)
def test_published_sizes(config, parameters):
    assert shape_from_config(config).parameters == parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "architecture MixtralForCausalLM is not one that we can count.*give spec.model.shape"),
        ({"architectures": []}, r"architectures is \[\]; it must name one class"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0, and it says 0"),
        ({"vocab_size": None}, "vocab_size must be a whole number above 0, and it has none"),
        ({"hidden_size": "576"}, "hidden_size must be a whole number above 0, and it says '576'"),
        ({"num_attention_heads": 10}, "hidden size 576 is not a multiple of 10 attention heads"),
    ],
)
def test_a_config_that_cannot_be_counted(change, message):
    with pytest.raises(InvalidModel, match=message):
        shape_from_config({**SMOLLM2_135M_CONFIG, **change})
