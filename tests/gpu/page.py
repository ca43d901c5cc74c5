"""The section of docs/benchmarks.md that a run prints: the machine, each check with its error and what it may be, the speed of a step."""

import datetime
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
from tests.gpu.checks import CHECKS, Measure
from tests.gpu.training import Sizes, Trainer, random_row, tokens_per_second

HEADING = """## On a GPU

    make test-gpu PYTHON=python3 > benchmarks/gpu.md

What a GPU computes against the same on the CPU of its machine, there in fp64: attention, loss, steps of a small GPTBigCode, checkpoint.
Errors are relative to the reference, in the Euclidean norm. Neither Ray nor DeepSpeed takes part."""

# A model of some size for the speed: rows of 8,192 tokens, and layers as the GPU's memory allows.
SPEED = {"width": 1_024, "heads": 16, "words": 49_152, "row": 8_192}
_LARGE_BYTES = 20 * 2**30


def measured(device: torch.device, sizes: Sizes) -> list[Measure]:
    """What every check found. A check that ends in an error is a measure without a number, and the others go on."""
    found: list[Measure] = []
    for check in CHECKS:
        print(f"checking {check.__name__}", file=sys.stderr, flush=True)
        try:
            found += check(device, sizes)
        except Exception as error:  # whatever a driver, a kernel or another version does: it belongs into the table
            first = (str(error).strip().splitlines() or [""])[0]
            found.append(Measure(name=f"{check.__name__} ended with {type(error).__name__}: {first}", error=float("nan"), tolerance=0.0))
    return found


def speed(device: torch.device, sizes: Sizes, *, steps: int = 10) -> str:
    """A sentence on the step's tokens a second, in bf16 with activation checkpointing."""
    trainer = Trainer(sizes, device, torch.bfloat16, seed=0, checkpointing=True)
    rows = [random_row(sizes, seed, dialogues=16) for seed in range(3 + steps)]
    rate = tokens_per_second(trainer, rows, warm_up=3)
    parameters = len(trainer.masters())
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most" if device.type == "cuda" else ""
    return (
        f"A step of GPTBigCode with {parameters / 1e6:.0f} M parameters in bf16 (rows of {sizes.row:,} tokens in 16 dialogues, activation "
        f"checkpointing, torch's AdamW on fp32 masters): {rate:,.0f} tokens/s over {steps} steps{memory}."
    )


def speed_sizes(device: torch.device) -> Sizes:
    """What fits with room to spare: 12 bytes a parameter of state, and the rest."""
    large = torch.cuda.get_device_properties(device).total_memory >= _LARGE_BYTES
    return Sizes(layers=24 if large else 6, **SPEED)


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
