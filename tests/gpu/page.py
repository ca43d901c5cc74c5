"""The section of docs/benchmarks.md that a run prints: the machine, each check with its error and what it may be, the speed of a step."""

import datetime
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from tests.gpu import speed
from tests.gpu.checks import CHECKS, MORE_CHECKS, Check, Measure
from tests.gpu.training import Sizes, config_of

HEADING = """## On a GPU

    make test-gpu PYTHON=python3 > benchmarks/gpu.md

What a GPU computes against the same on the CPU of its machine: attention, loss, steps of a small GPTBigCode, checkpoint, the engine of one
GPU; ZeRO-3 over NCCL where DeepSpeed is installed. Errors are relative to the reference, in the Euclidean norm. Ray takes no part."""


def measured(device: torch.device, sizes: Sizes, checks: Iterable[Check] = (*CHECKS, *MORE_CHECKS)) -> list[Measure]:
    """What every check found. A check that ends in an error is a measure without a number, and the others go on."""
    found: list[Measure] = []
    for check in checks:
        print(f"checking {check.__name__}", file=sys.stderr, flush=True)
        try:
            found += check(device, sizes)
        except Exception as error:  # whatever a driver, a kernel or another version does: it belongs into the table
            first = (str(error).strip().splitlines() or [""])[0]
            found.append(Measure(name=f"{check.__name__} ended with {type(error).__name__}: {first}", error=float("nan"), tolerance=0.0))
    return found


def speeds(device: torch.device, sizes: Sizes, *, steps: int = 10) -> str:
    """A table of the engine beside plain Transformers, and what was planned for it."""
    rows, sides = [], {"this trainer's engine": speed.ours, "plain Transformers, padded batches": speed.plain_transformers}
    for name, make in sides.items():
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            rows.append(_speed_row(speed.measured(name, make, sizes, device, steps=steps), device))
        except Exception as error:  # such as no memory
            rows.append([name, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", "", ""])
    planned = planned_bytes(sizes)
    told = "" if planned is None else f" `finetune plan` foresees {planned / 2**30:.1f} GiB for the first."
    return "\n\n".join(
        [
            f"Steps of GPTBigCode with {speed.parameters(sizes) / 1e6:,.0f} M parameters in bf16 on rows of {sizes.row:,} tokens in "
            f"{speed.DIALOGUES} dialogues, two thirds supervised, activations recomputed, torch's AdamW on fp32 masters.{told}",
            _table([f"{steps} steps", "tokens/s", "MFU", "peak GiB"], rows),
        ]
    )


def _speed_row(found: speed.Speed, device: torch.device) -> list[str]:
    peak = peak_flops(device)
    mfu = "" if peak is None else f"{found.flops / found.seconds / peak:.1%}"
    return [found.name, f"{found.tokens / found.seconds:,.0f}", mfu, f"{found.peak_bytes / 2**30:.1f}" if found.peak_bytes else ""]


def peak_flops(device: torch.device) -> float | None:
    """Of the GPU in bf16, by the planner's table; None where it isn't known, or where pydantic isn't installed."""
    if device.type != "cuda" or find_spec("pydantic") is None:
        return None
    from finetune_api.accelerators import accelerator

    card = accelerator(torch.cuda.get_device_properties(device).name)
    return None if card is None else card.bf16_flops


def planned_bytes(sizes: Sizes) -> int | None:
    """What the planner says of the engine's memory on a GPU; None where pydantic isn't installed."""
    if find_spec("pydantic") is None:
        return None
    from finetune_api.finetunejob import ZeroOptimization
    from finetune_api.load import Load
    from finetune_api.memory import memory
    from finetune_trainer.model.shape import read_shape

    config = config_of(sizes).to_dict() | {"architectures": ["GPTBigCodeForCausalLM"]}
    load = Load(
        shape=read_shape(config, source="GPTBigCode"),
        zero=ZeroOptimization(),
        device="gpu",
        precision="bf16",
        world_size=1,
        tokens=sizes.row,
        checkpointing=True,
    )
    return memory(load, None).total_bytes


def page(device: torch.device, found: list[Measure], told: str) -> str:
    """The whole text."""
    rows = [
        [one.name, one.path, "" if one.error != one.error else f"{one.error:.1e}", f"{one.tolerance:.0e}", "yes" if one.good else "**no**"]
        for one in found
    ]
    wrong = sum(not one.good for one in found)
    verdict = f"All {len(found)} measures are within their tolerances." if not wrong else f"**{wrong} of {len(found)} measures are not.**"
    return "\n\n".join(
        [
            HEADING,
            _table(["", ""], [[name, value] for name, value in machine(device).items()]),
            verdict,
            _table(["against the CPU", "attention", "error", "at most", "good"], rows),
            told,
        ]
    )


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured on."""
    facts = {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, capability {properties.major}.{properties.minor}"
        facts["CUDA"] = f"{torch.version.cuda or torch.version.hip}"
    return facts | {name: _version(name) for name in ("torch", "transformers", "numpy")} | {"Python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
