"""The section of docs/benchmarks.md that a run prints: the machine, each check with its error and what it may be, the speed of a step."""

import datetime
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch
from tests.gpu import memory, saved, speed
from tests.gpu.checks import CHECKS, MORE_CHECKS
from tests.gpu.measure import Check, Measure, is_installed
from tests.gpu.training import Sizes, config_of

HEADING = """## On a GPU

    make test-gpu PYTHON=python3 > benchmarks/gpu.md

What a GPU computes against the same on the CPU of its machine: attention, loss, steps of a small GPTBigCode, checkpoint, the engine of one
GPU, layers recomputed, fp16, LoRA, a checkpoint written while steps go on, how often the host waits, the check at the start; where
they are installed, QLoRA and 8-bit AdamW by bitsandbytes, and ZeRO-3 over NCCL by DeepSpeed. Then speed, and memory planned and seen.
Errors are relative to the reference, in the Euclidean norm. Ray takes no part."""


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
            rows.append(_speed_row(speed.measured(name, make, sizes, device, steps=steps), sizes, device))
        except Exception as error:  # such as no memory
            rows.append([name, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", "", "", ""])
    planned = memory.planned_in_all(sizes) / 2**30 if is_installed("pydantic") else None
    told = "" if planned is None else f" `finetune plan` foresees {planned:.1f} GiB for the first, allowances included."
    return "\n\n".join(
        [
            f"Steps of GPTBigCode with {speed.parameters(sizes) / 1e6:,.0f} M parameters in bf16 on rows of {sizes.row:,} tokens in "
            f"{speed.DIALOGUES} dialogues, two thirds supervised, activations recomputed, torch's AdamW on fp32 masters.{told}",
            _table([f"{steps} steps", "tokens/s", "MFU", "as runs report it", "peak GiB"], rows),
        ]
    )


def _speed_row(found: speed.Speed, sizes: Sizes, device: torch.device) -> list[str]:
    peak = peak_flops(device)
    mfu = None if peak is None else found.flops / found.seconds / peak
    reported = None if peak is None else reported_mfu(sizes, found, peak)
    shares = ["" if one is None else f"{one:.1%}" for one in (mfu, reported)]
    return [found.name, f"{found.tokens / found.seconds:,.0f}", *shares, f"{found.peak_bytes / 2**30:.1f}" if found.peak_bytes else ""]


def peak_flops(device: torch.device) -> float | None:
    """Of the GPU in bf16, by the planner's table; None where it isn't known, or where pydantic isn't installed."""
    if device.type != "cuda" or not is_installed("pydantic"):
        return None
    from finetune_api.accelerators import accelerator

    card = accelerator(torch.cuda.get_device_properties(device).name)
    return None if card is None else card.bf16_flops


def memories(device: torch.device, sizes: Sizes) -> str:
    """A table of memory planned and seen, by way of training; empty where pydantic isn't installed."""
    rows = []
    for one in memory.compared(device, sizes):
        print(f"measured memory of {one.name}", file=sys.stderr, flush=True)
        seen = [f"{one.planned / 2**30:.2f}", f"{one.seen / 2**30:.2f}", f"{one.planned / one.seen - 1:+.0%}"] if not one.problem else []
        rows.append([one.name, *(seen or [one.problem, "", ""])])
    if not rows:
        return ""
    return "The same model with 6 layers at most: memory that tensors take at the peak of a step.\n\n" + _table(
        ["", "planned GiB", "seen GiB", "planned by"], rows
    )


def copies(device: torch.device, sizes: Sizes) -> str:
    """A line about the copy from which a checkpoint is written."""
    print("measuring the copy of a checkpoint", file=sys.stderr, flush=True)
    one = saved.copied(device, sizes)
    return (
        f"The copy for a checkpoint, {one.nbytes / 2**30:.1f} GiB of masters and moments: {one.waiting:.2f} s while training waits. "
        f"As a run makes it, training waits {one.asking * 1000:,.0f} ms, and the copy was whole after {one.whole:.2f} s with a step "
        f"beside it, which takes {one.step:.2f} s alone."
    )


def reported_mfu(sizes: Sizes, found: speed.Speed, peak: float) -> float | None:
    """MFU as a run of ours reports it: by the model's parameters and segment lengths alone. None where pydantic isn't installed."""
    if not is_installed("pydantic"):
        return None
    from finetune_api.duration import model_flops_per_token
    from finetune_api.finetunejob import FineTuneJob
    from finetune_api.training_run import DataShape, SplitShape
    from finetune_trainer.model.shape import read_shape

    spec = {"model": {"name": "./gpu"}, "dataset": {"sources": [{"path": "./gpu.jsonl"}]}}
    job = FineTuneJob.model_validate({"metadata": {"name": "gpu"}, "spec": spec})
    shape = read_shape(config_of(sizes).to_dict() | {"architectures": ["GPTBigCodeForCausalLM"]}, source="GPTBigCode")
    counted = {"dialogues": 1, "segments": 1, "supervised_tokens": 1, "rows": 1}
    data = DataShape(fingerprint="gpu", train=SplitShape(tokens=found.tokens, squared_lengths=found.squared_lengths, **counted))
    return found.tokens * model_flops_per_token(job.spec, shape, data) / found.seconds / peak


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
