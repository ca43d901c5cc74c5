"""What `finetune_api.load` says that a layer keeps for its backward pass: counted as autograd holds it, whatever else a machine does."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTBigCodeConfig, LlamaConfig

from finetune_api.finetunejob import Lora, ZeroOptimization
from finetune_api.load import Load, layer_bytes_per_token
from finetune_trainer.model.adapters import add_adapters
from finetune_trainer.model.attention import ATTENTION, register
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import install_loss_head
from finetune_trainer.model.micro_batch import joined
from finetune_trainer.model.shape import read_shape

WIDTH, INNER, TOKENS, WORDS = 64, 192, 96, 50
CONFIGS: dict[str, Any] = {
    "GPTBigCodeForCausalLM": lambda layers: GPTBigCodeConfig(
        n_embd=WIDTH, n_inner=INNER, n_layer=layers, n_head=4, multi_query=False, n_positions=128, vocab_size=WORDS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, bos_token_id=None, eos_token_id=None,
    ),
    "LlamaForCausalLM": lambda layers: LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=128, vocab_size=WORDS, use_cache=False, bos_token_id=None, eos_token_id=None,
    ),
}  # fmt: skip
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def kept_bytes(config: Any, dtype: torch.dtype, method: str) -> int:
    """Bytes that a forward pass keeps, besides the model."""
    register()
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).to(dtype).train()
    if method == "lora":
        add_adapters(model, Lora(r=1), fresh_rows=[], seed=0)
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept: list[Tensor] = []  # alive, so that no address is taken twice

    def noted(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    row = joined([[index % WORDS for index in range(TOKENS)]])
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        install_loss_head(model)(**model_inputs(row, torch.device("cpu")))
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_layer_keeps_what_is_planned(architecture: str, precision: Literal["fp32", "bf16"], method: Literal["full", "lora"]) -> None:
    config = CONFIGS[architecture]
    few, many = (kept_bytes(config(layers), PRECISIONS[precision], method) for layers in (2, 6))
    load = Load(
        shape=read_shape(config(2).to_dict() | {"architectures": [architecture]}, source=architecture),
        zero=ZeroOptimization(),
        device="cpu",
        precision=precision,
        world_size=1,
        tokens=TOKENS,
        checkpointing=False,
        method=method,
    )
    assert layer_bytes_per_token(load) == pytest.approx((many - few) / 4 / TOKENS, rel=0.1)
