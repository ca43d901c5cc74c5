"""LoRA and QLoRA on a GPU against the same on the CPU, where PEFT and pydantic are installed; QLoRA where bitsandbytes is, too."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.gpu import speed
from tests.gpu.measure import BF16, CPU, Measure, apart, is_installed, losses, relative, state
from tests.gpu.training import Sizes, random_row

from finetune_trainer.training.plain_engine import PlainEngine


def lora(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """Adapters on every linear layer, and a new token's row: three steps. What is frozen stays."""
    if not is_installed("peft", "pydantic"):
        return
    rows = [random_row(sizes, seed) for seed in range(3)]
    reference = _engine(_adapted(sizes, torch.float32), CPU)
    start, right = _masters(reference), losses(reference, rows)
    for dtype, word, on_first, on_last in ((torch.float32, "fp32", 1e-5, 1e-4), (BF16, "bf16", 2e-3, 2e-2)):
        model = _adapted(sizes, dtype)
        trained, before = _engine(model, device), _frozen(model)
        done = losses(trained, rows)
        yield Measure(name=f"LoRA, {word}: first loss", error=apart(done[0], right[0]), tolerance=on_first)
        yield Measure(name=f"LoRA, {word}: loss of step 3", error=apart(done[-1], right[-1]), tolerance=on_last)
        moved = sum(int((one != before[name]).sum()) for name, one in _frozen(model).items())
        yield Measure(name=f"LoRA, {word}: elements of the base that moved", error=moved, tolerance=0)
        if dtype == torch.float32:
            way = relative(_masters(trained) - start, _masters(reference) - start)
            yield Measure(name="LoRA, fp32: way of the adapters in 3 steps", error=way, tolerance=2e-2)


def qlora(device: torch.device, sizes: Sizes) -> Iterator[Measure]:
    """The same beside a base whose layers are in 4 bits: what its weights are made into, and losses."""
    if not is_installed("peft", "pydantic", "bitsandbytes"):
        return
    rows = [random_row(sizes, seed) for seed in range(3)]
    with TemporaryDirectory() as folder:
        speed.random_model(sizes, 0).save_pretrained(folder)
        right = losses(_engine(_quantised(sizes, folder, torch.float32, CPU), CPU), rows)
        for dtype, word, on_first, on_last in ((torch.float32, "fp32", 1e-3, 1e-2), (BF16, "bf16", 5e-3, 3e-2)):
            models = [_quantised(sizes, folder, dtype, where) for where in (device, CPU)]
            ours, reference = (_made_of_four_bits(model) for model in models)
            yield Measure(name=f"QLoRA, {word}: weights made of 4 bits", error=relative(ours, reference), tolerance=1e-2)
            done = losses(_engine(models[0], device), rows)
            yield Measure(name=f"QLoRA, {word}: first loss", error=apart(done[0], right[0]), tolerance=on_first)
            yield Measure(name=f"QLoRA, {word}: loss of step 3", error=apart(done[-1], right[-1]), tolerance=on_last)


def with_adapters(model: Any, sizes: Sizes) -> Any:
    """`model`, in place, with adapters that begin the same each time, and one row of a token that it has never seen."""
    from finetune_api.finetunejob import Lora
    from finetune_trainer.model.adapters import add_adapters

    add_adapters(model, Lora(), fresh_rows=[sizes.words - 1], seed=0)
    return model


def _adapted(sizes: Sizes, dtype: torch.dtype) -> Any:
    return with_adapters(speed.random_model(sizes, 0).to(dtype), sizes)


def _quantised(sizes: Sizes, folder: str, dtype: torch.dtype, device: torch.device) -> Any:
    return with_adapters(four_bit_model(sizes, folder, dtype, device), sizes)


def four_bit_model(sizes: Sizes, folder: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The model of a folder with its layers in 4 bits, as a run reads it."""
    from finetune_trainer.model.build import build_model

    settings: dict[str, Any] = {"initialization": "pretrained", "seed": 0, "dropout": 0.0, "vocabulary_size": sizes.words}
    return build_model(Path(folder), dtype=dtype, four_bits_on=device, **settings)


def _engine(model: Any, device: torch.device) -> PlainEngine:
    return PlainEngine(model, speed.training(), method=speed.METHOD, device=device)


def _masters(trained: PlainEngine) -> torch.Tensor:
    return torch.cat([tensor.flatten() for (kind, _), tensor in state(trained).items() if kind == "master"])


def _frozen(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().to("cpu", copy=True) for name, one in model.named_parameters() if not one.requires_grad}


def _made_of_four_bits(model: Any) -> torch.Tensor:
    from finetune_trainer.model.four_bits import is_quantised, whole

    made = [whole(one).float().cpu().flatten() for one in model.parameters() if is_quantised(one)]
    assert made, "no layer is in 4 bits"
    return torch.cat(made)
