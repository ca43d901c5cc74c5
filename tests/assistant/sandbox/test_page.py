"""docs/sandbox.md: its Python does what it says, and its numbers are the code's."""

import re
from pathlib import Path

import pytest
from tests.conftest import ROOT

from finetune_assistant.sandbox import humaneval, plots
from finetune_assistant.sandbox.run import LIMITS

PAGE = (ROOT / "docs/sandbox.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("sandbox")
def test_the_python_of_the_page_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        exec(compile(block, "docs/sandbox.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    promised = [re.split(r"  # ", line)[1].removesuffix("...") for line in PAGE.splitlines() if line.startswith("print(")]
    promised[0] = "None"  # with its meaning on the page
    assert len(printed) == len(promised) == 5
    assert [line for line, begin in zip(printed, promised, strict=True) if not line.startswith(begin)] == []


def test_the_numbers_of_the_page() -> None:
    for words in (
        f"{LIMITS.disk_bytes >> 20} MiB, 4,096 files, {LIMITS.file_bytes >> 20} MiB a file",
        f"{LIMITS.memory_bytes >> 30} GiB of addresses a process",
        f"| CPU time | {LIMITS.cpu_seconds} seconds a process",
        f"| time | {LIMITS.wall_seconds:.0f} seconds",
        f"| processes, threads | {LIMITS.num_processes};",
        f"| output | {LIMITS.output_bytes >> 10} KiB each",
        f"plots have {plots.LIMITS.wall_seconds:.0f} seconds and {plots.LIMITS.memory_bytes >> 30} GiB",
        f"HumanEval {humaneval.LIMITS.wall_seconds:.0f} seconds and {humaneval.LIMITS.memory_bytes >> 30} GiB",
        f"{Path(plots.__file__).with_name('countries.geojson').read_text(encoding='utf-8').count('iso_a3')} countries",
    ):
        assert words in PAGE
