"""benchmarks/planner_document.py: floors, and what they are compared with."""

from typing import Any

from benchmarks.planner import CONFIGURATIONS
from benchmarks.planner_document import planner_section

from benchmarks import published


def measured(**wrong: float) -> dict[str, Any]:
    """All configurations, foretold within 5 %, but what is said to be wrong of the last."""
    right = {"planned_step_seconds": 1.05, "step_seconds": 1.0, "step_error": 0.05, "cpu_seconds": 1.0, "cpu_error": 0.05}
    right |= {"planned_above_bytes": 105 * 2**20, "above_bytes": 100 * 2**20, "memory_error": 0.05, "others": 0.01}
    found = {name: dict(right) for name in CONFIGURATIONS}
    found[list(CONFIGURATIONS)[-1]] |= wrong
    return {
        "machine": {"processor": "P", "cores": 2, "memory_gib": 24, "system": "Linux x86_64", "python": "3.11.7"},
        "versions": {"torch": "2.13.0"},
        "ended": "2026-12-01 05:00",
        "rows": 8,
        "length": 1024,
        "steps": 6,
        "calibrated_on": next(iter(CONFIGURATIONS)),
        "factors": {"step": 1.2, "beside_bytes": 60 * 2**20},
        "configurations": found,
        "published": published.measure(),
    }


def test_seven_configurations_are_foretold_and_their_worst_counts() -> None:
    assert len(CONFIGURATIONS) == 8
    section = planner_section(measured())
    assert "| memory of the others, farthest off | within 10% | 5% | met |" in section
    assert "| published runs within 15% | at least 4 | 27 of 29 | met |" in section
    assert "Measured until 2026-12-01 05:00 UTC on 2 cores of P" in section
    wrong = planner_section(measured(memory_error=-0.12, step_error=0.3))
    assert "| memory of the others, farthest off | within 10% | 12% | **missed** |" in wrong
    assert "| a step of the others, farthest off | within 20% | 30% | **missed** |" in wrong


def test_the_recipes_run_stands_on_one_to_eight_nodes() -> None:
    section = planner_section(measured())
    assert "| nodes | minutes in steps | MFU, % | GPU hours, start and checkpoint included |" in section
    assert all(f"\n| {nodes} |" in section for nodes in (1, 2, 4, 8))
    assert "7B on 8 x A100-80GB and 1B on 8 x A100-80GB" in section
