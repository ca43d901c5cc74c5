"""Tiny models of many families, each with what makes it unlike Llama: what of it is tried is said beside it."""

from typing import Any

import transformers as t

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 5,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 2, "mamba_chunk_size": 8}


def made(kind: type[Any], **settings: Any) -> Any:
    stem = kind.__name__.removesuffix("Config").removesuffix("Text")
    return kind(**{**SIZES, **settings, "architectures": [f"{stem}ForCausalLM"]})


PACKED: dict[str, Any] = {
    "logits multiplied (Cohere)": made(t.CohereConfig, logit_scale=0.3, tie_word_embeddings=True),
    "logits divided (Granite)": made(t.GraniteConfig, logits_scaling=3.0),
    "logits multiplied by logits_scaling (HyperCLOVA X)": made(t.HyperCLOVAXConfig, logits_scaling=0.4),
    "hidden states divided before the head (MiniCPM3)": made(t.MiniCPM3Config, dim_model_base=16, **LATENT),
    "soft-caps and a window (Gemma 2)": made(
        t.Gemma2Config, head_dim=16, attn_logit_softcapping=2.0, final_logit_softcapping=1.5, **WINDOW
    ),
    "soft-caps (VaultGemma)": made(t.VaultGemmaConfig, head_dim=16, attn_logit_softcapping=2.0, final_logit_softcapping=1.5, **WINDOW),
    "logits capped (NanoChat)": made(t.NanoChatConfig, final_logit_softcapping=1.5),
    "window and norms of queries (Gemma 3)": made(t.Gemma3TextConfig, head_dim=16, **WINDOW),
    "layer_scalar, a buffer that is saved (Gemma 4)": made(
        t.Gemma4TextConfig,
        head_dim=16,
        global_head_dim=16,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=61,
        num_kv_shared_layers=0,
        **WINDOW,
    ),
    "layers that share keys and values (Gemma 4 E2B)": made(
        t.Gemma4TextConfig,
        num_hidden_layers=4,
        head_dim=16,
        global_head_dim=16,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=61,
        num_kv_shared_layers=2,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "learned sinks and a window (GPT-OSS)": made(t.GptOssConfig, head_dim=16, **EXPERTS, **WINDOW),
    "learned sinks (Granite SWA)": made(t.GraniteSWAConfig),
    "a router's correction, a buffer that is saved, and other head widths for values (DeepSeek-V3)": made(
        t.DeepseekV3Config, **LATENT, **DEEPSEEK
    ),
    "a router's correction (GLM-4.5 MoE)": made(t.Glm4MoeConfig, head_dim=16, **DEEPSEEK),
    "a router's correction (MiniMax-M2)": made(t.MiniMaxM2Config, head_dim=16, **EXPERTS),
    "frozen parameters (ERNIE 4.5 MoE)": made(
        t.Ernie4_5_MoeConfig, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1
    ),
    "chunked attention (Llama 4)": made(
        t.Llama4TextConfig,
        head_dim=16,
        intermediate_size_mlp=48,
        attention_chunk_size=4,
        no_rope_layers=[1, 0],
        num_local_experts=4,
        layer_types=["chunked_attention", "full_attention"],
        moe_layers=[1],
    ),
    "router jitter (Mixtral)": made(t.MixtralConfig, router_jitter_noise=0.3, **EXPERTS),
    "router jitter (Phi-3.5-MoE)": made(t.PhimoeConfig, router_jitter_noise=0.01, input_jitter_noise=0.1, **EXPERTS),
    "frequencies by the longest dialogue (Phi-3 128k)": made(t.Phi3Config, rope_parameters=LONG, original_max_position_embeddings=5),
    "dynamic frequencies (Llama)": made(
        t.LlamaConfig, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, max_position_embeddings=5
    ),
    "output viewed (AfMoE)": made(
        t.AfmoeConfig, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_dense_layers=1, **WINDOW
    ),
    "token ids (CWM)": made(t.CwmConfig, head_dim=16, **WINDOW),
}

UNPACKED: dict[str, Any] = {
    "takes no positions (Bart)": t.BartConfig(
        vocab_size=61,
        d_model=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        is_decoder=True,
        is_encoder_decoder=False,
        architectures=["BartForCausalLM"],
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    ),
    "state space (Mamba)": t.MambaConfig(
        vocab_size=61, hidden_size=64, num_hidden_layers=2, state_size=8, architectures=["MambaForCausalLM"]
    ),
    "state space and attention (Jamba)": made(
        t.JambaConfig, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False, num_experts=2, mamba_d_state=8
    ),
    "state space and attention (Bamba)": made(t.BambaConfig, attn_layer_indices=[1], **MAMBA),
    "state space after attention (Granite 4 hybrid)": made(
        t.GraniteMoeHybridConfig,
        num_hidden_layers=4,
        layer_types=["attention", "attention", "mamba", "attention"],
        shared_intermediate_size=48,
        num_local_experts=0,
        num_experts_per_tok=0,
        **MAMBA,
    ),
    "convolution after attention (LFM2)": made(t.Lfm2Config, num_hidden_layers=3, layer_types=["full_attention", "full_attention", "conv"]),
    "linear attention (Qwen3-Next)": made(
        t.Qwen3NextConfig,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "boundaries lost (StableLM)": made(t.StableLmConfig),
    "attention of its own (GPT-J)": t.GPTJConfig(
        vocab_size=61, n_embd=64, n_head=4, n_layer=2, rotary_dim=4, n_positions=64, architectures=["GPTJForCausalLM"]
    ),
    "attention of its own (Falcon)": t.FalconConfig(
        vocab_size=61, hidden_size=64, num_attention_heads=4, num_hidden_layers=2, architectures=["FalconForCausalLM"]
    ),
    "biases by position (Bloom)": t.BloomConfig(vocab_size=61, hidden_size=64, n_head=4, n_layer=2, architectures=["BloomForCausalLM"]),
    "biases by position (MPT)": t.MptConfig(vocab_size=61, d_model=64, n_heads=4, n_layers=2, architectures=["MptForCausalLM"]),
}
