"""tests/gpu/memory.py on the CPU, where torch's profiler counts every byte: what is planned is what tensors take."""

import pytest
import torch
from tests.gpu import memory, page
from tests.gpu.memory import Way
from tests.gpu.training import Sizes

CPU = torch.device("cpu")
SMALL = Sizes(layers=4, width=128, heads=2, words=4_096, row=512)
WAYS = (
    Way(name="full", dtype=torch.float32, precision="fp32", recomputes=False),
    Way(name="full, recomputed", dtype=torch.float32, precision="fp32"),
    Way(name="LoRA", method="lora", dtype=torch.float32, precision="fp32", recomputes=False),
    Way(name="LoRA, recomputed", method="lora", dtype=torch.float32, precision="fp32"),
)


@pytest.mark.parametrize("way", [pytest.param(way, id=way.name, marks=pytest.mark.thorough if way.recomputes else ()) for way in WAYS])
def test_what_is_planned_is_what_tensors_take(way: Way) -> None:
    (found,) = memory.compared(CPU, SMALL, (way,))
    assert found.problem == ""
    assert found.planned == pytest.approx(found.seen, rel=0.1)


def test_the_page_has_planned_beside_seen_and_what_could_not_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(device: torch.device, sizes: Sizes) -> list[memory.Compared]:
        return [memory.Compared(name="a", planned=3 * 2**30, seen=2 * 2**30), memory.Compared(name="b", problem="OutOfMemoryError: no")]

    monkeypatch.setattr(memory, "compared", one)
    told = page.memories(CPU, SMALL)
    assert "| a | 3.00 | 2.00 | +50% |" in told
    assert "| b | OutOfMemoryError: no |  |  |" in told
