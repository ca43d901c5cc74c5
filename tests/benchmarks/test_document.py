"""benchmarks/document.py"""

from typing import Any

import pytest
from benchmarks.document import SECTIONS, _preparation, _training_table, document


def test_a_page_is_one_run() -> None:
    """Rows of an earlier run beside those of this one say nothing of each other."""
    sections = {name: {"run": "a"} for name in SECTIONS} | {"training": {"run": "b"}, "operator": {}}
    with pytest.raises(ValueError, match=r"^training, operator: not of this run; measure everything in one: make benchmarks"):
        document({"run": "a", "begun": "", "ended": "", "machine": {}, "versions": {}, **sections})


def test_processor_time_stands_beside_the_clock() -> None:
    side = {"tokens_per_second": 2_000, "slowest": 1_900, "fastest": 2_100, "peak_memory_mib": 7, "losses": [2.0, 1.0], "others": 0.0}
    sides = {"ours": {**side, "cpu_seconds": 2.7}, "reference": {**side, "cpu_seconds": 3.52, "tokens_per_second": 2_600}}
    header, _, ours, reference = _training_table(16_384, sides).splitlines()
    assert "| tokens/s | slowest to fastest | ours / this | CPU s | this / ours |" in header
    assert "| 2,000 | 1,900 to 2,100 |  | 2.7 |  |" in ours
    assert "| 2,600 | 1,900 to 2,100 | 0.77x | 3.5 | 1.30x |" in reference


def _preparation_sides(ours: float, *others: tuple[str, float]) -> dict[str, Any]:
    run = {"seconds": ours, "cpu_seconds": ours, "all_seconds": [ours], "tokens": 10, "supervised_tokens": 5, "rows": 1, "others": 0.0}
    run |= {"peak_memory_mib": 100, "largest_child_mib": 0}
    ratios = {name: {"seconds": seconds / ours, "cpu_seconds": 2 * seconds / ours} for name, seconds in others}
    return {**{name: run for name in ("ours", "stored", *dict(others))}, "ratios": ratios}


def test_preparation_has_to_meet_its_goals_by_the_lesser_ratio_on_every_vocabulary() -> None:
    found = {
        "repeats": 3,
        "packing": {"dialogues": 1_000_000, "seconds": 0.2},
        "trl": {"rows": 7, "megabytes": 5.5, "1": _preparation_sides(1.0, ("trl", 3.1)), "2": _preparation_sides(1.0, ("trl", 2.5))},
        "tokenizer": {
            "StarCoder": {"prose": _preparation_sides(1.0, ("encode_batch", 1.2), ("encode_batch_fast", 1.0))},
            "SmolLM2": {"code": _preparation_sides(1.0, ("encode_batch", 1.0), ("encode_batch_fast", 0.6))},
        },
    }
    values = _preparation(found)
    assert values["goals"].splitlines()[2:] == [
        "| TRL's time / ours, processes: 1 | 2.2x | 3x | 3.10x | 6.20x | goal met |",
        "| TRL's time / ours, processes: 2 | 2.2x | 3x | 2.50x | 5.00x | floor met |",
        "| `encode_batch` / ours, the least of all vocabularies and texts | 0.9x | 1x | 1.00x | 2.00x | goal met |",
        "| `encode_batch_fast` / ours, the least of all vocabularies and texts | 0.7x | 0.9x | 0.60x | 1.20x | **missed** |",
        "| peak memory |  | below 1,024 MiB | 100 MiB |  | goal met |",
        "| packing plan of 1,000,000 dialogues |  | at most 1 s | 0.20 s |  | goal met |",
    ]
    assert values["second_idle"]
    assert "| SmolLM2 | code | 10 | 1.00 (1.00) |" in values["beside_tokenizer"]
