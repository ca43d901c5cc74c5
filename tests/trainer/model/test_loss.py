"""finetune_trainer/model/loss.py"""

from typing import Any

import pytest
import torch
import transformers
from tests.trainer.architectures import gpt_bigcode, llama, packed
from torch.nn.functional import cross_entropy, linear

from finetune_trainer.model import loss
from finetune_trainer.model.attention import ATTENTION, boundary_arguments, register
from finetune_trainer.model.loss import cross_entropy_sum, install_loss_head


def tensors(dtype: torch.dtype, rows: int, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(19, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    bias_V = torch.randn(19, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    return hidden, weight, bias_V, torch.randint(0, 19, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 7, 0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradients_are_those_of_cross_entropy(rows: int, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, bias_V, labels = tensors(dtype, rows, bias)
    given = [t for t in (hidden, weight, bias_V) if t is not None]
    expected = cross_entropy(linear(hidden, weight, bias_V), labels, reduction="sum")
    expected_gradients = torch.autograd.grad(3.0 * expected, given)
    got = cross_entropy_sum(hidden, weight, bias_V, labels)
    gradients = torch.autograd.grad(3.0 * got, given)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=tolerance, atol=tolerance)


def test_several_chunks_equal_one() -> None:
    _, weight, _, _ = tensors(torch.float64, 0, False)
    wide = weight.detach().repeat(200, 1).requires_grad_()
    rows = 2 * (loss._CHUNK_ELEMENTS // len(wide)) + 1  # two chunks, and one of a single row
    hidden, *_ = tensors(torch.float64, rows, False)
    labels = torch.arange(rows) % len(wide)
    expected = cross_entropy(linear(hidden, wide), labels, reduction="sum")
    wanted = torch.autograd.grad(expected, [hidden, wide])
    got = cross_entropy_sum(hidden, wide, None, labels)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, [hidden, wide]), wanted)


def test_bf16_is_added_up_in_fp32() -> None:
    hidden, weight, _, labels = tensors(torch.bfloat16, 400, False)
    got = cross_entropy_sum(hidden, weight, None, labels)
    expected = cross_entropy(linear(hidden, weight).double(), labels, reduction="sum")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=0.0)


def test_the_scale_of_a_step_is_not_rounded_to_bf16() -> None:
    hidden, weight, _, labels = tensors(torch.bfloat16, 50, False)
    scale = 1 / 792  # 0.3 % from the nearest bf16 number
    (scaled,) = torch.autograd.grad(cross_entropy_sum(hidden, weight, None, labels) * scale, [hidden])
    (plain,) = torch.autograd.grad(cross_entropy_sum(hidden, weight, None, labels), [hidden])
    assert float(scaled.double().abs().sum()) == pytest.approx(scale * float(plain.double().abs().sum()), rel=5e-4)


@pytest.mark.parametrize("config", [gpt_bigcode(), llama()], ids=["tied", "untied"])
def test_a_model_gives_the_loss_and_gradients_of_its_own_logits(config: transformers.PreTrainedConfig) -> None:
    register()
    torch.manual_seed(1)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).double().eval()
    row = packed([3, 5, 7, 11], [9, 1], [2, 4, 6], supervised=(True, False, True))
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    boundaries = boundary_arguments(row, torch.device("cpu"))
    logits = model(**inputs, use_cache=False, **boundaries).logits[0]
    expected = cross_entropy(logits, torch.tensor(row.labels), reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    wrapped = install_loss_head(model)
    got = wrapped(**inputs, labels=torch.tensor(row.labels)[None], **boundaries)
    gradients = torch.autograd.grad(got, list(model.parameters()))
    torch.testing.assert_close(got, expected)
    for gradient, one in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, one)
    torch.testing.assert_close(wrapped(**inputs, **boundaries), logits)


def test_a_row_without_a_supervised_token_still_has_gradients() -> None:
    register()
    model: Any = transformers.AutoModelForCausalLM.from_config(gpt_bigcode(), attn_implementation=ATTENTION)
    row = packed([3, 5], supervised=(False,))
    inputs = {"input_ids": torch.tensor(row.input_ids)[None], "position_ids": torch.tensor(row.position_ids)[None]}
    got = install_loss_head(model)(**inputs, labels=torch.tensor(row.labels)[None], **boundary_arguments(row, torch.device("cpu")))
    got.backward()
    assert got.item() == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("bound", [None, 1.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_factors_and_bounds_on_logits_are_those_of_plain_pytorch(bound: float | None, dtype: torch.dtype) -> None:
    hidden, weight, bias, labels = tensors(dtype, 50, True)
    assert bias is not None
    got = cross_entropy_sum(hidden, weight, bias, labels, factor=0.3, bound=bound)
    wide = [one.detach().double().requires_grad_() for one in (hidden, weight, bias)]
    logits = 0.3 * torch.nn.functional.linear(*wide)
    expected = cross_entropy(logits if bound is None else bound * torch.tanh(logits / bound), labels, reduction="sum")
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2 * float(expected.detach())}
    torch.testing.assert_close(got.double(), expected, **tolerance)
    for one, other in zip(torch.autograd.grad(got, [hidden, weight, bias]), torch.autograd.grad(expected, wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance["rtol"], atol=tolerance["rtol"] * float(other.abs().max()))
