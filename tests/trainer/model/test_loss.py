"""finetune_trainer/model/loss.py"""

from typing import Any

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed
from torch.nn.functional import cross_entropy

from finetune_trainer.model.attention import ATTENTION, register
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import install_loss_head


@pytest.mark.parametrize("config", [gpt_bigcode(), llama()], ids=["tied", "untied"])
def test_a_model_gives_the_loss_and_gradients_of_its_own_logits(config: transformers.PreTrainedConfig) -> None:
    register()
    torch.manual_seed(1)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).double().eval()
    row = packed([3, 5, 7, 11], [9, 1], [2, 4, 6], supervised=(True, False, True))
    inputs = model_inputs(row, torch.device("cpu"))
    counts = {name: inputs.pop(name) for name in ("supervised", "targets")}
    logits = model(**inputs, use_cache=False).logits[0]
    expected = cross_entropy(logits, torch.tensor(row.labels), reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    wrapped = install_loss_head(model)
    got = wrapped(**inputs, **counts)
    gradients = torch.autograd.grad(got, list(model.parameters()))
    torch.testing.assert_close(got, expected)
    for gradient, one in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, one)
    torch.testing.assert_close(wrapped(**inputs), logits)


def test_a_row_without_a_supervised_token_still_has_gradients() -> None:
    register()
    model: Any = transformers.AutoModelForCausalLM.from_config(gpt_bigcode(), attn_implementation=ATTENTION)
    row = packed([3, 5], supervised=(False,))
    got = install_loss_head(model)(**model_inputs(row, torch.device("cpu")))
    got.backward()
    assert got.item() == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
