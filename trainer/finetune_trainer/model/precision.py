"""Which arithmetic forward and backward use: bf16 where the hardware is fast at it, else fp32; fp16 where a job asks. Masters are fp32."""

from pathlib import Path
from typing import Final, Literal

Precision = Literal["bf16", "fp16", "fp32"]
# What torch and NumPy call them.
DTYPE_NAMES: Final[dict[Precision, str]] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

# A CPU with neither emulates bf16: 9 times slower than fp32 (SmolLM2-135M, 2 cores, torch 2.13).
_FAST_FLAGS = {"amx_bf16", "avx512_bf16"}


def resolve_precision(wanted: Literal["auto", "bf16", "fp16", "fp32"], *, gpu_bf16: bool | None, cpu_flags: frozenset[str]) -> Precision:
    """`wanted`, with `auto` decided. gpu_bf16: whether the GPU has bf16; None without a GPU. All workers must agree: decide once.

    >>> resolve_precision("auto", gpu_bf16=None, cpu_flags=frozenset({"avx2"}))
    'fp32'
    >>> resolve_precision("auto", gpu_bf16=None, cpu_flags=frozenset({"avx512_bf16"}))
    'bf16'
    """
    if wanted != "auto":
        return wanted
    fast = gpu_bf16 if gpu_bf16 is not None else bool(cpu_flags & _FAST_FLAGS)
    return "bf16" if fast else "fp32"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features of the first CPU; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(flags.partition(":")[2].split())
