"""benchmarks/document.py"""

import pytest
from benchmarks.document import SECTIONS, _training_table, document


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
