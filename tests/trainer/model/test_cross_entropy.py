"""finetune_trainer/model/cross_entropy.py"""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_trainer.model.cross_entropy import chunk_rows, cross_entropy_sum


def tensors(
    dtype: torch.dtype, rows: int, bias: bool, vocabulary: int = 19
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    bias_V = torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    return hidden, weight, bias_V, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("vocabulary", [19, 64, 150])
@pytest.mark.parametrize("rows", [1, 7, 0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradients_are_those_of_cross_entropy(
    vocabulary: int, rows: int, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """Below, at and beyond a tile of GPU kernels."""
    hidden, weight, bias_V, labels = tensors(dtype, rows, bias, vocabulary)
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
    rows = 2 * (chunk_rows(len(wide))) + 1  # two chunks, and one of a single row
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


def test_an_unlikely_target_has_a_finite_loss() -> None:
    """Its probability is no number of fp32 any more."""
    hidden = torch.tensor([[200.0]], requires_grad=True)
    got = cross_entropy_sum(hidden, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([1]))
    assert float(got.detach()) == pytest.approx(400.0)


class _Products(TorchDispatchMode):
    """Sizes and strides of the operands of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[torch.Tensor]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.seen.append([one for one in (*args, *(kwargs or {}).values()) if isinstance(one, torch.Tensor)])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("vocabulary", [4_096, 4_099])
def test_products_begin_their_rows_and_end_where_fast_kernels_want(vocabulary: int) -> None:
    """All but narrow ones, of what remains of the vocabulary; rows of logits always."""
    hidden, weight = (torch.randn(rows, 64, dtype=torch.bfloat16, requires_grad=True) for rows in (200, vocabulary))
    with _Products() as products:
        cross_entropy_sum(hidden, weight, None, torch.randint(vocabulary, (200,))).backward()
    wide = [operands for operands in products.seen if max(max(one.shape) for one in operands) >= 4_096]
    assert len(wide) == 3, "logits and two gradients"
    for one in (one for operands in products.seen for one in operands):
        assert max(one.stride()) % 64 == 0
    for one in (one for operands in wide for one in operands):
        assert max(one.shape) % 64 == 0 or max(one.shape) == 200
