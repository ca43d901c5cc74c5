"""finetune_trainer/model/attention.py"""

from typing import Any

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed

from finetune_api.errors import InvalidModel
from finetune_trainer.model.attention import ATTENTION, boundary_arguments, packed_attention, register
from finetune_trainer.model.build import check_config, miniature

CPU = torch.device("cpu")
SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = {**SMALL, "num_key_value_heads": 2}


def model(config: transformers.PreTrainedConfig, attention: str) -> Any:
    register()
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.mark.parametrize("config", [gpt_bigcode(), gpt_bigcode(multi_query=False), llama()], ids=["mqa", "mha", "gqa"])
def test_a_packed_row_gives_each_dialogue_the_logits_it_has_alone(config: transformers.PreTrainedConfig) -> None:
    dialogues = [[3, 5, 7, 11], [9], [2, 4, 6, 8, 10, 12, 14]]
    row = packed(*dialogues)
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    together = model(config, ATTENTION)(**inputs, use_cache=False, **boundary_arguments(row, CPU)).logits[0]
    alone = [model(config, "eager")(torch.tensor([d]), use_cache=False).logits[0] for d in dialogues]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", [gpt_bigcode(), llama()], ids=["gpt_bigcode", "llama"])
def test_gradients_stay_inside_a_dialogue(config: transformers.PreTrainedConfig, checkpointing: bool) -> None:
    trained = model(config, ATTENTION)
    if checkpointing:
        trained.activation_checkpointing_enable({"use_reentrant": False})
    trained.train()
    for module in trained.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    row = packed([3, 5, 7], [9, 2, 4], [6, 8])
    embedded = trained.get_input_embeddings()(torch.tensor(row.input_ids)[None]).detach().requires_grad_()
    hidden = trained.base_model(
        inputs_embeds=embedded, position_ids=torch.tensor(row.position_ids)[None], use_cache=False, **boundary_arguments(row, CPU)
    ).last_hidden_state
    hidden[0, 3:6].square().sum().backward()
    touched = embedded.grad[0].abs().sum(dim=-1) > 0
    assert touched.tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_missing_boundaries_are_refused() -> None:
    with pytest.raises(InvalidModel, match=r"GPTBigCodeAttention does not pass the boundaries"):
        model(gpt_bigcode(), ATTENTION)(torch.tensor([[1, 2, 3]]), use_cache=False)


def test_an_argument_that_changes_attention_is_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    boundaries = boundary_arguments(packed([1, 2, 3]), CPU)
    with pytest.raises(InvalidModel, match="softcap"):
        packed_attention(torch.nn.Identity(), states, states, states, None, softcap=50.0, **boundaries)


def test_no_dense_mask_is_made() -> None:
    seen: list[Any] = []
    trained = model(llama(), ATTENTION)
    for layer in trained.model.layers:
        layer.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True)
    row = packed([1, 2, 3], [4, 5])
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    trained(**inputs, use_cache=False, **boundary_arguments(row, CPU))
    assert seen == [None, None]


def test_a_sliding_window_is_kept() -> None:
    config = transformers.MistralConfig(**GROUPED, sliding_window=3)
    ids = list(range(1, 11))
    row = packed(ids, [4, 5])
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    together = model(config, ATTENTION)(**inputs, use_cache=False, **boundary_arguments(row, CPU)).logits[0]
    alone = model(config, "eager")(torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(together[:10], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [gpt_bigcode(), llama(), transformers.Qwen2Config(**GROUPED), transformers.MistralConfig(**GROUPED), transformers.GPT2Config()],
    ids=lambda config: config.model_type,
)
def test_supported_architectures_pass_the_check(config: transformers.PreTrainedConfig) -> None:
    check_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # Attention of its own, which takes the boundaries and looks across them.
        (transformers.BloomConfig(hidden_size=32, n_head=4, n_layer=2, vocab_size=100), "Bloom.* lets dialogues of a packed row see"),
        # No way to give it another attention.
        (transformers.GPTJConfig(n_embd=32, n_head=4, n_layer=2, vocab_size=100, rotary_dim=4), "does not run with packed attention"),
        (transformers.Gemma2Config(**GROUPED, head_dim=8), "Gemma2Attention needs attention with softcap"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_an_architecture_that_would_leak_is_refused_by_name(config: transformers.PreTrainedConfig, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        check_config(config)


def test_a_miniature_keeps_the_architecture() -> None:
    small = miniature(llama())
    assert type(small).__name__ == "LlamaForCausalLM"
    assert small.config.vocab_size == 16
