"""Tiny random models, one for each way of saying where rotary positions stand, exported as a run would export them."""

import json
from pathlib import Path
from typing import Any

from tests.exported_models import TINY, ModelWeights, base_folder, source_model, training_run
from transformers import AutoConfig

from finetune_trainer.publishing.export import export

OLD_VOCABULARY = json.loads((TINY / "config.json").read_text())["vocab_size"]
SIZES: dict[str, Any] = {
    "vocab_size": OLD_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LLAMA = SIZES | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-6}


def rope(kind: str, theta: float = 100_000.0, **settings: Any) -> dict[str, Any]:
    """As Transformers 5 writes it."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama, plain": LLAMA | rope("default"),
    "llama, linear": LLAMA | rope("linear", factor=4.0),
    "llama, dynamic": LLAMA | rope("dynamic", factor=2.0),
    "llama, yarn": LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=64),
    "llama, llama3": LLAMA | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    "llama, written by Transformers 4": LLAMA | {"rope_theta": 100_000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "phi3, longrope": SIZES
    | {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "original_max_position_embeddings": 128}
    | rope("longrope", short_factor=[1.0, 1.5, 2.0, 2.5], long_factor=[2.0, 3.0, 4.0, 5.0], partial_rotary_factor=1.0),
    "gemma3, two frequencies": SIZES
    | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 16}
    | {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8, "tie_word_embeddings": True}
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3_000.0},
        }
    },
    "gpt_neox, a quarter rotated, a head of another name": SIZES
    | {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_act": "gelu"}
    | rope("default", partial_rotary_factor=0.25),
    "mixtral, experts in tensors of their own": SIZES
    | {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}
    | rope("default"),
    "qwen3_moe, experts in tensors of their own": SIZES
    | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 16, "head_dim": 8}
    | rope("default"),
    "gpt_bigcode, one head of keys, learned positions": {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "vocab_size": OLD_VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 128,
        "n_positions": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "qwen2, plain": SIZES
    | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6}
    | rope("default", 1_000_000.0),
}


def exported(name: str, folder: Path) -> Path:
    """The model `name` of CONFIGS in `folder`/model, of random weights that make a wrong position visible."""
    base = base_folder(folder / "base", "gpt_bigcode")
    (base / "config.json").write_text(json.dumps(CONFIGS[name]))
    if "rope_parameters" in CONFIGS[name]:  # every field that Transformers 5 writes, as in a model that it has saved
        AutoConfig.from_pretrained(base).save_pretrained(base)
    # Of the run only vocabulary and settings count here; its shape may be another family's.
    shape = base_folder(folder / "shape", "llama")
    run = training_run(shape)
    model = source_model(base, rows=run.vocabulary.size)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8.0)
    export(run, ModelWeights(model), step=1, base=base, folder=folder / "model")
    return folder / "model"
