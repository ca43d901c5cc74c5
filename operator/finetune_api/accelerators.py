"""What is known of GPU models: memory and the peak that the time estimate starts from.

Names are those of the node label `cloud.google.com/gke-accelerator`; other spellings of the same card are understood.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.fields import nearest

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A GPU model. `memory_bytes` is what nvidia-smi shows as total; `bf16_flops` dense peak a second, None without bf16 units."""

    name: str
    memory_bytes: int
    bf16_flops: float | None


def _gpu(name: str, memory_mib: int, bf16_teraflops: float | None) -> Accelerator:
    return Accelerator(name=name, memory_bytes=memory_mib * _MIB, bf16_flops=None if bf16_teraflops is None else bf16_teraflops * 1e12)


# Dense bf16 peaks with fp32 accumulation from NVIDIA's data sheets (those that print sparse figures, halved).
ACCELERATORS: Final = (
    _gpu("nvidia-a100-80gb", 81_920, 312.0),
    _gpu("nvidia-a100-40gb", 40_960, 312.0),
    _gpu("nvidia-h100-80gb", 81_559, 989.4),
    _gpu("nvidia-h200-141gb", 143_771, 989.4),
    _gpu("nvidia-b200", 183_359, 2_250.0),
    _gpu("nvidia-l40s", 46_068, 362.0),
    _gpu("nvidia-l4", 23_034, 121.0),
    _gpu("nvidia-a10g", 23_028, 70.0),
    _gpu("nvidia-a10", 23_028, 125.0),
    _gpu("nvidia-rtx-a6000", 49_140, 154.8),
    _gpu("nvidia-rtx-4090", 24_564, 165.2),
    _gpu("nvidia-rtx-3090", 24_576, 71.0),
    _gpu("nvidia-tesla-v100", 16_384, None),
    _gpu("nvidia-tesla-t4", 15_360, None),
)

# Other spellings: GKE's names, words that a product name carries.
_ALIASES: Final = {
    "nvidia-tesla-a100": "nvidia-a100-40gb",
    "nvidia-h100-mega-80gb": "nvidia-h100-80gb",
    "nvidia-h200": "nvidia-h200-141gb",
    "nvidia-t4": "nvidia-tesla-t4",
}
# As NVIDIA's device plugin calls them: sevenths of the card's processors, and memory.
_SLICE: Final = re.compile(r"/mig-(?P<sevenths>[1-7])g\.(?P<gigabytes>\d+)gb")
_NOISE: Final = re.compile(r"-(sxm\d*|pcie|hbm\d+e?|nvl|geforce|mig-[\w.]+)\b")


def accelerator(name: str) -> Accelerator | None:
    """The GPU model of that name, however it is spelt; None when it isn't in the table.

    >>> accelerator("NVIDIA-A100-SXM4-80GB").name, accelerator("a100-80gb").name, accelerator("tpu-v5")
    ('nvidia-a100-80gb', 'nvidia-a100-80gb', None)
    """
    plain = _NOISE.sub("", re.sub(r"[\s_]+", "-", name.strip().lower()))
    plain = plain if plain.startswith("nvidia-") else f"nvidia-{plain}"
    plain = _ALIASES.get(plain, plain)
    return next((known for known in ACCELERATORS if known.name == plain), None)


def slice_of(card: Accelerator, resource: str) -> Accelerator:
    """What a pod has that is given a MIG slice of the card; the card itself for any other resource.

    >>> a100 = ACCELERATORS[0]
    >>> slice_of(a100, "nvidia.com/mig-3g.40gb").memory_bytes, slice_of(a100, "nvidia.com/gpu") == a100
    (40000000000, True)
    """
    found = _SLICE.search(resource)
    if found is None:
        return card
    share, memory_bytes = int(found["sevenths"]) / 7, int(found["gigabytes"]) * 10**9
    peak = card.bf16_flops * share if card.bf16_flops is not None else None
    return replace(card, memory_bytes=min(memory_bytes, card.memory_bytes), bf16_flops=peak)


def nearest_name(name: str) -> str | None:
    """The known name that was probably meant."""
    return nearest(name, [known.name for known in ACCELERATORS])
