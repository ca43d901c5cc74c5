"""Memory as it is planned, beside what is held: each way of training the speed's model, cut to few layers.

Planned: the terms of `finetune_api.memory` that are counted or estimated, without allowances for a CUDA context and the allocator's gaps,
since what is seen is what tensors take.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.gpu import speed
from tests.gpu.adapters import four_bit_model, with_adapters
from tests.gpu.measure import is_installed, losses
from tests.gpu.training import Sizes, config_of, random_row

from finetune_trainer.training.plain_engine import PlainEngine

_MOST_LAYERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Of training: what `Load` and the engine are told of it."""

    name: str
    method: str = "full"
    dtype: torch.dtype = torch.bfloat16
    precision: str = "bf16"
    recomputes: bool = True
    optimizer: str = "adamw"
    packages: tuple[str, ...] = ()


WAYS = (
    Way(name="full, bf16"),
    Way(name="full, bf16, nothing recomputed", recomputes=False),
    Way(name="full, fp16", dtype=torch.float16, precision="fp16"),
    Way(name="full, bf16, adamw8bit", optimizer="adamw8bit", packages=("bitsandbytes",)),
    Way(name="LoRA, bf16", method="lora", packages=("peft",)),
    Way(name="LoRA, bf16, nothing recomputed", method="lora", recomputes=False, packages=("peft",)),
    Way(name="QLoRA, bf16", method="qlora", packages=("peft", "bitsandbytes")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Bytes; `problem` in their place where it could not be tried."""

    name: str
    planned: int = 0
    seen: int = 0
    problem: str = ""


def compared(device: torch.device, sizes: Sizes, ways: tuple[Way, ...] = WAYS) -> list[Compared]:
    """Each way whose packages are installed; pydantic is the planner's."""
    small = replace(sizes, layers=min(_MOST_LAYERS, sizes.layers))
    return [_compared(device, small, way) for way in ways if is_installed("pydantic", *way.packages)]


def _compared(device: torch.device, sizes: Sizes, way: Way) -> Compared:
    try:
        seen, adapters = _seen(device, sizes, way)
        return Compared(name=way.name, planned=planned_bytes(device, sizes, way, adapters), seen=seen)
    except Exception as error:  # such as no memory: the others are worth having all the same
        return Compared(name=way.name, problem=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


def _seen(device: torch.device, sizes: Sizes, way: Way) -> tuple[int, int]:
    """Bytes at the peak of a step with two micro-batches, and parameters of adapters."""
    gc.collect()
    with TemporaryDirectory() as folder:
        model = _model(sizes, way, folder, device)
    trained = PlainEngine(model, speed.training(checkpointing=way.recomputes, optimizer=way.optimizer), method=speed.METHOD, device=device)
    adapters = sum(one.numel() for one in model.parameters() if one.requires_grad) if way.method != "full" else 0
    rows = [random_row(sizes, seed, dialogues=speed.DIALOGUES) for seed in range(2)]
    losses(trained, rows[:1])

    def step() -> None:
        trained.train_step(rows, num_supervised=sum(row.num_supervised for row in rows), learning_rate=1e-3)

    return peak_bytes(device, _held(model, trained), step), adapters


def _model(sizes: Sizes, way: Way, folder: str, device: torch.device) -> Any:
    model = speed.random_model(sizes, 0).to(way.dtype)
    if way.method == "qlora":
        model.save_pretrained(folder)
        model = four_bit_model(sizes, folder, way.dtype, device)
    return model if way.method == "full" else with_adapters(model, sizes)


def _held(model: Any, trained: PlainEngine) -> int:
    """Bytes of weights, masters and moments."""
    tensors = [*model.parameters(), *model.buffers(), *(piece.tensor for piece in trained.local_state())]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def peak_bytes(device: torch.device, held: int, step: Callable[[], None]) -> int:
    """The most that tensors take in `step`: as the GPU's allocator counts; on a CPU `held` and what torch's profiler sees on top of it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    events: Any = profile.profiler
    changes = sorted((one.start_ns(), one.nbytes()) for one in events.kineto_results.events() if one.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return held + most


def planned_bytes(device: torch.device, sizes: Sizes, way: Way, adapters: int = 0) -> int:
    """What the planner counts and estimates."""
    from finetune_api.memory import memory
    from finetune_api.memory import sizes as phases

    return sum(phases(one for one in memory(_load(device, sizes, way, adapters), None).terms if one.basis != "assumed"))


def planned_in_all(sizes: Sizes) -> int:
    """What the planner says of full training in bf16 on a GPU, with its allowances."""
    from finetune_api.memory import memory

    return memory(_load(torch.device("cuda"), sizes, WAYS[0], 0), None).total_bytes


def _load(device: torch.device, sizes: Sizes, way: Way, adapters: int) -> Any:
    from finetune_api.finetunejob import ZeroOptimization
    from finetune_api.load import Load
    from finetune_trainer.model.shape import read_shape

    return Load(
        shape=read_shape(config_of(sizes).to_dict() | {"architectures": ["GPTBigCodeForCausalLM"]}, source="GPTBigCode"),
        zero=ZeroOptimization(),
        device="gpu" if device.type == "cuda" else "cpu",
        precision=way.precision,  # type: ignore[arg-type]
        world_size=1,
        tokens=sizes.row,
        checkpointing=way.recomputes,
        supervised=2 / 3,
        method=way.method,  # type: ignore[arg-type]
        adapters=adapters,
        moments_in_8_bits=way.optimizer == "adamw8bit",
    )
