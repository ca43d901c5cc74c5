"""The families, each with what makes it unlike Llama, as base models of random weights: folders as people have them."""

import shutil
from pathlib import Path
from typing import Any

import transformers as t
from tests.exported_models import TINY
from tests.trainer.architectures import save_random
from tests.trainer.families import PACKED, UNPACKED, WINDOW, made

_POSITIONS = 256

FAMILIES: dict[str, Any] = {
    "Llama": made(t.LlamaConfig, tie_word_embeddings=False),
    "Qwen3, norms of queries and keys": made(t.Qwen3Config, head_dim=16),
    "Mistral, a window": made(t.MistralConfig, head_dim=16, sliding_window=8),
    "Gemma 2, soft-caps and a window": PACKED["soft-caps and a window (Gemma 2)"],
    "Gemma 3, a window and two frequencies": made(t.Gemma3TextConfig, head_dim=16, **WINDOW),
    "GPT-NeoX, a quarter rotated": made(t.GPTNeoXConfig),
    "GPTBigCode, one head of keys": t.GPTBigCodeConfig(
        n_embd=64, n_layer=2, n_head=4, n_inner=96, bos_token_id=0, eos_token_id=0, architectures=["GPTBigCodeForCausalLM"]
    ),
    "Phi-3, frequencies by length": PACKED["frequencies by the longest dialogue (Phi-3 128k)"],
    "Granite, logits divided": PACKED["logits divided (Granite)"],
    "OLMo 2, norms after": made(t.Olmo2Config),
    "Cohere, logits multiplied": PACKED["logits multiplied (Cohere)"],
    "GPT-OSS, learned sinks and experts": PACKED["learned sinks and a window (GPT-OSS)"],
    "Mixtral, experts": made(t.MixtralConfig, num_local_experts=4, num_experts_per_tok=2),
    "Mamba, one dialogue a call": UNPACKED["state space (Mamba)"],
}


def base_model(family: str, folder: Path, vocabulary: int) -> Path:
    """A folder with the tokenizer of our tiny model, and random weights large enough that no effect hides in small numbers."""
    shutil.copytree(TINY, folder)
    config = FAMILIES[family]
    longer = {name: _POSITIONS for name in ("max_position_embeddings", "n_positions") if hasattr(config, name)}
    save_random(type(config).from_dict(config.to_dict() | longer | {"vocab_size": vocabulary}), folder, scale=2.0)
    return folder
