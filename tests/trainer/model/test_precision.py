"""finetune_trainer/model/precision.py"""

from pathlib import Path
from typing import Literal

import pytest

from finetune_trainer.model.precision import Precision, cpu_flags, resolve_precision


@pytest.mark.parametrize(
    ("wanted", "gpu_bf16", "flags", "expected"),
    [
        ("auto", None, {"avx2", "avx512f"}, "fp32"),
        ("auto", None, {"amx_bf16"}, "bf16"),
        ("auto", None, {"avx512_bf16"}, "bf16"),
        ("auto", True, set(), "bf16"),
        ("auto", False, {"amx_bf16"}, "fp32"),
        ("bf16", None, set(), "bf16"),
        ("fp32", True, set(), "fp32"),
    ],
)
def test_auto_takes_bf16_where_the_hardware_is_fast_at_it(
    wanted: Literal["auto", "bf16", "fp32"], gpu_bf16: bool | None, flags: set[str], expected: Precision
) -> None:
    assert resolve_precision(wanted, gpu_bf16=gpu_bf16, cpu_flags=frozenset(flags)) == expected


def test_flags_are_read_from_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx512_bf16", "avx2"}
    assert cpu_flags(tmp_path / "absent") == frozenset()
