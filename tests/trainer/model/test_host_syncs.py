"""A micro-step never waits for a GPU: inputs, attention, last layer and loss know on the host what their kernels have to be told.

Tensors without data stand for a GPU's: asking one for a number, or for how many of its elements are not zero, is an error there.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.trainer.architectures import gpt_bigcode, llama, packed
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_trainer.model import varlen
from finetune_trainer.model.build import from_config, with_dropout
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.loss import LossModel, install_loss_head
from finetune_trainer.model.method import Method

CPU = torch.device("cpu")
ROW = packed([3, 5, 7, 11, 4], [9, 1], [2, 4, 6], supervised=(True, False, True))
SHORTENED = {"gpt_bigcode": Method(last_layer=("attn.c_proj", "mlp")), "llama": Method(last_layer=("self_attn.o_proj", "mlp"))}
CHUNKED = {"attention_chunk_size": 3, "layer_types": ["chunked_attention", "full_attention"]}
FAMILIES: dict[str, Callable[[], Any]] = {"gpt_bigcode": gpt_bigcode, "llama": llama, "chunked": lambda: llama(**CHUNKED)}


class Operators(TorchDispatchMode):
    """Counts the calls of each operator, and keeps the arguments of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.arguments: dict[str, tuple[Any, ...]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls[str(function.overloadpacket)] += 1
        self.arguments[str(function.overloadpacket)] = args
        return function(*args, **(kwargs or {}))


def model(family: str, dtype: torch.dtype) -> LossModel:
    """With dropout everywhere and activation checkpointing."""
    config = with_dropout(FAMILIES[family](), 0.1, 0.1)
    config.use_cache = False
    made = from_config(config, dtype)
    made.activation_checkpointing_enable({"use_reentrant": False})
    return install_loss_head(made, SHORTENED.get(family, Method())).train()


def without_data(mode: FakeTensorMode, inputs: dict[str, Any], device: str) -> dict[str, Any]:
    """The same arguments as tensors of a device that need not be there."""
    return {
        name: torch.empty(one.shape, dtype=one.dtype, device=device) if isinstance(one, torch.Tensor) else one
        for name, one in inputs.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused", [True, False], ids=["varlen", "per segment"])
def test_no_layer_asks_a_tensor_for_a_number(family: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "runs_on", lambda query: fused)
    inputs = model_inputs(ROW, CPU)
    with FakeTensorMode() as mode:
        trained = model(family, torch.bfloat16)
        trained(**without_data(mode, inputs, "cpu")).backward()
        assert all(one.grad is not None for one in trained.parameters())


def test_a_question_would_be_seen() -> None:
    with FakeTensorMode():
        offsets = torch.empty(5, dtype=torch.int32)
        for question in (lambda: offsets.tolist(), lambda: offsets.max().item(), lambda: bool((offsets == 0).all())):
            with pytest.raises(DataDependentOutputException):
                question()
        with pytest.raises(DynamicOutputShapeException):
            offsets.nonzero()


def test_inputs_go_to_the_device_in_one_copy() -> None:
    with FakeTensorMode(), Operators() as seen:
        block = torch.empty(30, dtype=torch.int64)
        block.to("cuda", non_blocking=True).split([10, 20])
    copies = seen.calls["aten._to_copy"]
    with Operators() as seen:
        inputs = model_inputs(ROW, torch.device("meta"))
    assert seen.calls["aten._to_copy"] == copies + 1, "the block, and offsets made 32 bits wide, on the device"
    assert seen.calls["aten._local_scalar_dense"] == seen.calls["aten.nonzero"] == 0
    assert inputs["cu_seq_lens_q"].device.type == "meta"


def test_on_a_gpu_the_headline_job_takes_the_kernel_in_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPTBigCode in bf16 with attention dropout 0.1."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    varlen._capability.cache_clear()
    inputs = model_inputs(ROW, CPU)
    try:
        with FakeTensorMode() as mode, torch.device("cuda"):
            trained = model("gpt_bigcode", torch.bfloat16)
            with Operators() as seen:
                loss = trained(**without_data(mode, inputs, "cuda"))
    finally:
        varlen._capability.cache_clear()
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
    assert seen.calls["aten._flash_attention_forward"] == gpt_bigcode().n_layer
    assert seen.arguments["aten._flash_attention_forward"][5:9] == (ROW.max_length, ROW.max_length, 0.1, True)
    assert not any("scaled_dot_product" in name for name in seen.calls)
