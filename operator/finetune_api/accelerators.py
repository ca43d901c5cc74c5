"""What is known of GPU models: memory, and the peaks and bandwidths that the time estimate starts from. The only table of them.

Names are those of the node label `cloud.google.com/gke-accelerator`; other spellings of the same card are understood.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from finetune_api.fields import nearest

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A GPU model. `memory_bytes` is what nvidia-smi shows as total; `bf16_flops` dense peak a second, None without bf16 units;
    `fp16_flops` the same of fp16, which every one has.

    Bytes a second: `memory_bandwidth` of its own memory; `link_bandwidth` to its neighbours in a node, one way; `network_bandwidth` of
    a whole node to others, one way, the least and the most that nodes of eight (or the largest there are) are offered with.
    """

    name: str
    memory_bytes: int
    bf16_flops: float | None
    fp16_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: tuple[float, float]


def _gpu(
    name: str, memory_mib: int, bf16_teraflops: float | None, memory_gb_s: float, link_gb_s: float, network_gbit_s: tuple[float, float]
) -> Accelerator:
    least, most = network_gbit_s
    return Accelerator(
        name=name,
        memory_bytes=memory_mib * _MIB,
        bf16_flops=None if bf16_teraflops is None else bf16_teraflops * 1e12,
        fp16_flops=(bf16_teraflops or _FP16_ALONE[name]) * 1e12,
        memory_bandwidth=memory_gb_s * 1e9,
        link_bandwidth=link_gb_s * 1e9,
        network_bandwidth=(least * 1e9 / 8, most * 1e9 / 8),
    )


# Dense fp16 peaks of cards without bf16, in 10^12 operations a second; of the others they are those of bf16.
_FP16_ALONE: Final = {"nvidia-tesla-v100": 125.0, "nvidia-tesla-t4": 65.0}
_PCIE_4: Final = 32.0  # GB/s one way, 16 lanes
# Dense bf16 peaks with fp32 accumulation, memory bandwidth, and NVLink (half of what both ways carry) or PCIe from NVIDIA's data sheets
# (those that print sparse figures, halved). Gb/s of a node, 2023 to 2026: A100 Google A2 and NVIDIA DGX / Azure NDm v4 (AWS p4d has 400);
# H100 Google A3 High and AWS p5 / Azure ND v5; H200, B200 Google A3 Ultra and A4, AWS p5en and p6; L4, A10G, T4 Google G2, AWS g5, g4dn;
# L40S AWS g6e; V100 AWS p3 and p3dn. Workstations' cards: Ethernet.
ACCELERATORS: Final = (
    _gpu("nvidia-a100-80gb", 81_920, 312.0, 2_039, 300, (100, 1_600)),
    _gpu("nvidia-a100-40gb", 40_960, 312.0, 1_555, 300, (100, 1_600)),
    _gpu("nvidia-h100-80gb", 81_559, 989.4, 3_350, 450, (800, 3_200)),
    _gpu("nvidia-h200-141gb", 143_771, 989.4, 4_800, 450, (3_200, 3_200)),
    _gpu("nvidia-b200", 183_359, 2_250.0, 8_000, 900, (3_200, 3_200)),
    _gpu("nvidia-l40s", 46_068, 362.0, 864, _PCIE_4, (100, 400)),
    _gpu("nvidia-l4", 23_034, 121.0, 300, _PCIE_4, (50, 100)),
    _gpu("nvidia-a10g", 23_028, 70.0, 600, _PCIE_4, (50, 100)),
    _gpu("nvidia-a10", 23_028, 125.0, 600, _PCIE_4, (25, 100)),
    _gpu("nvidia-rtx-a6000", 49_140, 154.8, 768, _PCIE_4, (10, 100)),
    _gpu("nvidia-rtx-4090", 24_564, 165.2, 1_008, _PCIE_4, (10, 100)),
    _gpu("nvidia-rtx-3090", 24_576, 71.0, 936, _PCIE_4, (10, 100)),
    _gpu("nvidia-tesla-v100", 16_384, None, 900, 150, (25, 100)),
    _gpu("nvidia-tesla-t4", 15_360, None, 320, 16, (50, 100)),
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
# Slices don't speak to one another by NVLink.
_SLICE_LINK: Final = _PCIE_4 * 1e9
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
    bf16 = card.bf16_flops * share if card.bf16_flops is not None else None
    memory = min(memory_bytes, card.memory_bytes)
    bandwidth = card.memory_bandwidth * memory / card.memory_bytes
    return replace(
        card,
        memory_bytes=memory,
        bf16_flops=bf16,
        fp16_flops=card.fp16_flops * share,
        memory_bandwidth=bandwidth,
        link_bandwidth=_SLICE_LINK,
    )


def nearest_name(name: str) -> str | None:
    """The known name that was probably meant."""
    return nearest(name, [known.name for known in ACCELERATORS])
