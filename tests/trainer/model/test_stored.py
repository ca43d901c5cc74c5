"""model/stored.py: what ranks read of a model, range by range, is what one that reads all of it has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.trainer.architectures import VOCABULARY, gpt_bigcode, llama, save_random
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_api.finetunejob import Lora
from finetune_trainer.model.adapters import add_adapters
from finetune_trainer.model.build import build_model, fresh_rows
from finetune_trainer.model.stored import Extent, StoredValues, mean_row, stored_values, tensors_of

MIXTRAL = transformers.MixtralConfig(
    vocab_size=VOCABULARY,
    hidden_size=40,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=3,
    architectures=["MixtralForCausalLM"],
)
CONFIGS = {"tied": gpt_bigcode(), "untied": llama(), "experts": MIXTRAL}


def build(folder: Path, *, by_range: bool, **changes: Any) -> Any:
    settings = {"seed": 0, "dropout": 0.0, "vocabulary_size": VOCABULARY + 4, "new_token_ids": [7, VOCABULARY + 1], "dtype": torch.float32}
    return build_model(folder, initialization="pretrained", by_range=by_range, **(settings | changes))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that came to be."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_ranges_are_those_of_who_reads_all(architecture: str, stored: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    """Tied and not, experts that files hold one by one, new rows and rows that were padding, in files of both widths."""
    folder = save_random(CONFIGS[architecture], tmp_path / "model")
    weights = {name: tensor.to(stored) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    whole = dict(build(folder, by_range=False, dtype=dtype).named_parameters())
    unread = dict(build(folder, by_range=True, dtype=dtype).named_parameters())
    assert unread.keys() == whole.keys()
    assert all(parameter.is_meta for parameter in unread.values())
    for name, parameter in whole.items():
        values, flat = stored_values(unread[name]), parameter.detach().view(-1)
        assert values is not None
        mean = values.mean() if values.fresh else None
        for world_size in (1, 2, 3):
            size = -(-flat.numel() // world_size)
            for start in range(0, flat.numel(), size):
                assert torch.equal(values.read(start, min(start + size, flat.numel()), mean), flat[start : start + size]), name


def test_shards_and_what_is_never_whole(tmp_path: Path) -> None:
    """A rank of three reads its ranges from several files; no tensor is larger than the table whose mean is taken."""
    folder = save_random(llama(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, parts in files.items():
        save_file({name: weights[name] for name in parts}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, parts in files.items() for name in parts}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = dict(build(folder, by_range=False).named_parameters())
    with Largest() as largest:
        for name, parameter in build(folder, by_range=True).named_parameters():
            values = stored_values(parameter)
            assert values is not None
            stop = -(-parameter.numel() // 3)
            assert torch.equal(values.read(0, stop, values.mean() if values.fresh else None), whole[name].view(-1)[:stop])
    assert largest.bytes == (VOCABULARY + 4) * 40 * 4


@pytest.mark.parametrize("architecture", ["tied", "untied"])
@pytest.mark.parametrize("lora", [Lora(r=4), Lora(r=4, use_rslora=True, lora_dropout=0.1)], ids=["lora", "rslora, dropout"])
def test_adapters_begin_beside_weights_that_are_left_in_files(architecture: str, lora: Lora, tmp_path: Path) -> None:
    """As they do beside a model that was read, bit by bit, with all else frozen and where it was."""
    folder, fresh = save_random(CONFIGS[architecture], tmp_path / "model"), fresh_rows(VOCABULARY, VOCABULARY + 4, [7])
    whole, unread = build(folder, by_range=False), build(folder, by_range=True)
    for model in (whole, unread):
        add_adapters(model, lora, fresh_rows=fresh, seed=3)
    parameters = dict(unread.named_parameters())
    assert parameters.keys() == dict(whole.named_parameters()).keys()
    assert any(parameter.requires_grad for parameter in parameters.values())
    for name, parameter in whole.named_parameters():
        other, flat = parameters[name], parameter.detach().view(-1)
        assert other.requires_grad == parameter.requires_grad, name
        if parameter.requires_grad:
            assert torch.equal(other, parameter), name
            continue
        values = stored_values(other)
        assert other.is_meta, name
        assert values is not None, name
        assert torch.equal(values.read(0, flat.numel(), values.mean() if values.fresh else None), flat), name


@pytest.mark.parametrize("width", [128, 300, 1])
def test_the_mean_of_a_table_in_files_is_that_of_one_in_memory(width: int, tmp_path: Path) -> None:
    """To the last bit, in pieces that are smaller than the widest of these."""
    table = torch.randn(5_003, width)
    save_file({"table": table}, tmp_path / "model.safetensors")
    ((_, (shape, _, file, offset)),) = tensors_of(tmp_path)
    extent = Extent(start=0, stop=table.numel(), file=file, offset=offset, dtype=torch.float32)
    values = StoredValues(shape=shape, dtype=torch.float32, extents=[extent], fresh=[3, 5_002])
    known = torch.ones(5_003, dtype=torch.bool)
    known[[3, 5_002]] = False
    assert torch.equal(values.mean(), mean_row(lambda first, last: table[first:last], 5_003, width, [3, 5_002]).float())
    torch.testing.assert_close(values.mean(), table[known].double().mean(dim=0).float())


@pytest.mark.parametrize("by_range", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", list(CONFIGS))
def test_what_is_left_to_a_checkpoint_is_the_same_model_but_for_values(
    architecture: str, dtype: torch.dtype, by_range: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder without weights: names, shapes, types, what is tied, buffers; also where a family keeps a part in fp32."""
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["mlp.*_proj"])
    folder = save_random(CONFIGS[architecture], tmp_path / "model")
    read = build(folder, by_range=by_range, dtype=dtype)
    (folder / "model.safetensors").unlink()
    left = build(folder, by_range=by_range, restored=True, dtype=dtype)
    seen = [{name: (one.shape, one.dtype, one.requires_grad) for name, one in model.named_parameters()} for model in (read, left)]
    assert seen[0] == seen[1]
    assert {name for name, one in read.named_parameters() if one.dtype != dtype} == {
        name for name in seen[0] if "mlp" in name and architecture == "untied" and not by_range and dtype != torch.float32
    }
    buffers = dict(left.named_buffers())
    assert buffers.keys() == dict(read.named_buffers()).keys()
    assert all(torch.equal(one, buffers[name]) for name, one in read.named_buffers())
    assert left.config.vocab_size == read.config.vocab_size == VOCABULARY + 4
    for parameter in left.parameters():
        values = stored_values(parameter)
        assert values is not None
        assert not values.read(0, parameter.numel(), None).any()


def no_head(weights: dict[str, torch.Tensor]) -> None:
    del weights["lm_head.weight"]


def another(weights: dict[str, torch.Tensor]) -> None:
    weights["model.extra"] = torch.zeros(2)


def half(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"].double()


@pytest.mark.parametrize("change", [no_head, another, half])
def test_what_is_unexpected_is_left_to_who_reads_all(change: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path) -> None:
    folder = save_random(llama(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = build(folder, by_range=True, reads=False)
    assert all(stored_values(parameter) is None for parameter in model.parameters())
