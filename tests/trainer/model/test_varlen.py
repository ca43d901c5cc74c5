"""finetune_trainer/model/varlen.py, by a kernel that does on a CPU what FlashAttention does, and refuses what it refuses."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.trainer.architectures import packed
from torch import Tensor

from finetune_trainer.model.attention import boundary_arguments, packed_attention
from finetune_trainer.model.varlen import runs_on, varlen_attention

CPU = torch.device("cpu")


def _checked(states: tuple[Tensor, ...], offsets: tuple[Tensor, ...]) -> None:
    """What the CUDA library of torch 2.13 checks, by its messages."""
    query, key, value = states
    assert {t.dtype for t in states} <= {torch.bfloat16, torch.float16}, "FlashAttention only support fp16 and bf16 data type"
    assert all(t.stride(-1) == 1 for t in states), "Input tensor must have contiguous last dimension"
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] <= 256
    assert query.shape[-1] % 8 == 0
    assert not 192 < query.shape[-1] <= 224, "no training on sm86 to sm89"
    assert query.shape[1] % key.shape[1] == 0, "Number of heads in key/value must divide number of heads in query"
    assert all(o.dtype == torch.int32 and o.is_contiguous() and o.dim() == 1 for o in offsets)


def _weights(query: Tensor, key: Tensor, scale: float, left: int, right: int) -> Tensor:
    """Softmax of one segment's scores (H, T, T). Query i sees keys i - left to i + right; -1: no bound."""
    ahead = torch.arange(query.shape[1])[None, :] - torch.arange(query.shape[1])[:, None]
    hidden = ((ahead > right) & (right >= 0)) | ((-ahead > left) & (left >= 0))
    return (query @ key.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf).softmax(-1)


def _segments(offsets: Tensor, *states: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Each segment's states in fp32 (H, T, D), keys and values once for each query head."""
    heads = states[0].shape[1]
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        part = slice(start, stop)
        yield part, [t[part].float().transpose(0, 1).repeat_interleave(heads // t.shape[1], 0) for t in states]


_DROPOUTS: list[float] = []


def _forward(query, key, value, offsets_q, offsets_k, max_q, max_k, dropout, is_causal, debug, *, scale=None,
             window_size_left=None, window_size_right=None, **others):  # fmt: skip
    _checked((query, key, value), (offsets_q, offsets_k))
    assert dropout in (0.0, 0.25)
    assert not any(value is not None for value in others.values()), others
    assert max_q == max_k == int(offsets_q.diff().max())
    assert is_causal == ((window_size_left, window_size_right) == (-1, 0))
    _DROPOUTS.append(dropout)
    output = torch.empty_like(query)
    for part, (q, k, v) in _segments(offsets_q, query, key, value):
        output[part] = (_weights(q, k, scale, window_size_left, window_size_right) @ v).transpose(0, 1).to(query.dtype)
    empty = torch.empty(0)
    return output, torch.zeros(query.shape[1], query.shape[0]), torch.zeros(2, dtype=torch.uint64), empty, empty


def _backward(grad, query, key, value, output, lse, offsets_q, offsets_k, max_q, max_k, dropout, is_causal, seed, unused, *,
              scale=None, window_size_left=None, window_size_right=None):  # fmt: skip
    _checked((query, key, value), (offsets_q, offsets_k))
    grads = [torch.empty_like(t) for t in (query, key, value)]
    for part, (q, k, v, upstream) in _segments(offsets_q, query, key, value, grad):
        weights = _weights(q, k, scale, window_size_left, window_size_right)
        by_weight = upstream @ v.transpose(1, 2)
        by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * scale
        for whole, one in zip(grads, (by_score @ k, by_score.transpose(1, 2) @ q, weights.transpose(1, 2) @ upstream), strict=True):
            shared = one.unflatten(0, (whole.shape[1], -1)).sum(1)  # query heads that share a key head
            whole[part] = shared.transpose(0, 1).to(whole.dtype)
    return tuple(grads)


@pytest.fixture
def _kernel() -> Iterator[None]:
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", _forward, "CPU")
        library.impl("_flash_attention_backward", _backward, "CPU")
        yield


LENGTHS = [5, 1, 40, 17]
OFFSETS = torch.tensor(np.cumsum([0, *LENGTHS]), dtype=torch.int32)


def _states(heads: int, groups: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """As an architecture gives them: views of one projection, heads before tokens."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(1, int(OFFSETS[-1]), heads + 2 * groups, width, generator=generator).to(torch.bfloat16)
    query, key, value = whole.transpose(1, 2).split([heads, groups, groups], dim=1)
    return tuple(t.detach().requires_grad_() for t in (query, key, value))


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize(
    ("heads", "groups", "width", "scaling", "window"),
    [
        pytest.param(4, 4, 16, None, None, id="one key head a query head"),
        pytest.param(4, 2, 16, 0.3, None, id="grouped queries, a scale of its own"),
        pytest.param(3, 1, 12, None, None, id="multi-query, 12 wide"),
        pytest.param(4, 2, 16, None, 7, id="a sliding window"),
        pytest.param(4, 4, 20, None, 1, id="a window of the token itself"),
        pytest.param(2, 1, 200, None, None, id="200 wide"),
        pytest.param(2, 2, 256, None, 100, id="256 wide, a window longer than any segment"),
    ],
)
def test_the_call_means_what_per_segment_attention_means(
    heads: int, groups: int, width: int, scaling: float | None, window: int | None
) -> None:
    states, upstream = _states(heads, groups, width), torch.randn(1, int(OFFSETS[-1]), heads, width)
    ours = varlen_attention(*states, OFFSETS, max(LENGTHS), scaling=scaling, window=window)
    assert ours.shape == upstream.shape
    gradients = torch.autograd.grad(ours, states, upstream.to(ours.dtype))
    reference = [t.detach().float().requires_grad_() for t in states]
    boundaries = boundary_arguments(packed(*([1] * length for length in LENGTHS)), CPU)
    expected, _ = packed_attention(torch.nn.Identity(), *reference, None, scaling=scaling, sliding_window=window, **boundaries)
    torch.testing.assert_close(ours.float(), expected, rtol=1e-2, atol=1e-2)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, reference, upstream), strict=True):
        torch.testing.assert_close(gradient.float(), wanted, rtol=2e-2, atol=3e-2)


def test_torchs_own_operator_takes_the_call() -> None:
    """With tensors that have no data: signature, shapes, and that gradients come back, through torch's registered operator."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query = torch.empty(1, 6, 63, 20, dtype=torch.bfloat16, requires_grad=True)
        key = torch.empty(1, 2, 63, 20, dtype=torch.bfloat16, requires_grad=True)
        offsets = torch.empty(5, dtype=torch.int32)
        output = varlen_attention(query, key, key, offsets, 40, scaling=None, window=7)
        assert (output.shape, output.dtype) == ((1, 63, 6, 20), torch.bfloat16)
        output.sum().backward()
        assert query.grad is not None
        assert key.grad is not None
        assert (query.grad.shape, key.grad.shape) == (query.shape, key.shape)


@pytest.mark.usefixtures("_kernel")
def test_dropout_is_the_kernels() -> None:
    states = _states(4, 2, 16)
    del _DROPOUTS[:]
    varlen_attention(*states, OFFSETS, max(LENGTHS), scaling=None, window=None, dropout=0.25)
    varlen_attention(*states, OFFSETS, max(LENGTHS), scaling=None, window=None)
    assert _DROPOUTS == [0.25, 0.0]


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 16), (torch.bfloat16, 264)])
def test_what_the_kernel_does_not_take_goes_segment_by_segment(dtype: torch.dtype, width: int) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not runs_on(torch.empty(1, 2, 8, width, device="cuda", dtype=dtype))
    assert not runs_on(torch.empty(1, 2, 8, 16, dtype=torch.bfloat16))
