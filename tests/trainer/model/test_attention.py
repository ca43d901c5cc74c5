"""finetune_trainer/model/attention.py"""

from typing import Any

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed

from finetune_api.errors import InvalidModel
from finetune_trainer.model.attention import ATTENTION, boundary_arguments, packed_attention, register

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
    for unknown in ({"block_indices": states}, {"head_mask": states}, {"anything_new": False}):
        with pytest.raises(InvalidModel, match=f"needs attention with {next(iter(unknown))}"):
            packed_attention(torch.nn.Identity(), states, states, states, None, **unknown, **boundaries)
    with pytest.raises(InvalidModel, match="needs attention with position_bias"):
        packed_attention(torch.nn.Identity(), states, states, states, None, position_bias=states, **boundaries)


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


def by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], window: int, cap: float, sinks: torch.Tensor
) -> Any:
    """Attention with a cap, a window and sinks, written out for each dialogue, head and query."""
    groups, rows, start = query.shape[1] // key.shape[1], [], 0
    for length in lengths:
        for t in range(start, start + length):
            heads = []
            for h in range(query.shape[1]):
                first = max(start, t - window + 1)
                scores = cap * torch.tanh(key[0, h // groups, first : t + 1] @ query[0, h, t] * 0.3 / cap)
                weights = torch.cat([scores, sinks[h : h + 1]]).softmax(dim=0)[:-1]
                heads.append(weights @ value[0, h // groups, first : t + 1])
            rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)[None]


@pytest.mark.parametrize("block", [3, 1024])
def test_caps_and_sinks_are_those_written_out_by_hand(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in blocks of queries that are made again in the backward, and with values narrower than keys."""
    monkeypatch.setattr("finetune_trainer.model.attention._SCORED_QUERIES", block)
    torch.manual_seed(0)
    shapes = ((1, 4, 12, 6), (1, 2, 12, 6), (1, 2, 12, 5), (4,))
    query, key, value, sinks = tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    boundaries = boundary_arguments(packed(list(range(7)), [1], list(range(4))), CPU)
    options = {"scaling": 0.3, "softcap": 1.5, "s_aux": sinks, "sliding_window": 3}
    got, _ = packed_attention(torch.nn.Identity(), query, key, value, None, **options, **boundaries)
    expected = by_hand(query, key, value, [7, 1, 4], 3, 1.5, sinks)
    torch.testing.assert_close(got, expected)
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), tensors), torch.autograd.grad(expected.square().sum(), tensors), strict=True
    ):
        torch.testing.assert_close(one, other)
