"""benchmarks/assistant_document.py and benchmarks/sections.py"""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.assistant_document import curation_section, evaluation_section, generation_section
from benchmarks.evaluation import parser_on_odd_replies
from benchmarks.sections import Kept, with_section

ON: dict[str, Any] = {
    "machine": {"processor": "P", "cores": 2, "memory_gib": 24, "system": "Linux x86_64", "python": "3.11.7"},
    "versions": {"torch": "2.13.0"},
    "ended": "2026-11-30 21:00",
}
PACE = {"ours": 40.0, "plain": 41.0, "ratio": 0.976, "others": 0.0}
GENERATION: dict[str, Any] = {
    **ON,
    "settings": {"prompts": 200, "batch_size": 8, "new_tokens": 128, "repeats": 3},
    "turns": {"first_seconds": [0.2, 0.3], "fresh_seconds": 2.0, "prompt_tokens": 1234, "others": 0.0},
    "chat": PACE,
    "batch": PACE,
    "file-ours": {"seconds": 100.0, "new_tokens": 9000, "others": 0.0},
    "file-plain": {"seconds": 120.0, "new_tokens": 9000, "others": None},
    "ratios": {"turn_10_to_2": 1.5, "chat": 0.976, "batch": 0.96, "file": 1.2},
}
RUN = {"seconds": 100.0, "cpu_seconds": 90.0, "peak_memory_mib": 1000, "largest_child_mib": 23, "written": 7, "others": 0.0}
CURATION: dict[str, Any] = {
    **ON,
    "rows": 1_000_000,
    "bytes": 1_600_000_000,
    "repeats": 1,
    "plain": {"ours": RUN, "datasets": RUN, "ratio": 2.99},
    "full": {"ours": {**RUN, "largest_child_mib": 2072}, "datasets": RUN, "ratio": 1.0},
}
EVALUATION: dict[str, Any] = {
    **ON,
    "tasks": "mmlu,truthfulqa_mc2",
    "limit": 20,
    "repeats": 1,
    "ours": {"seconds": 105.0, "all_seconds": [105.0], "numbers": {"mmlu acc": 0.25}, "others": 0.0},
    "lm_eval": {"seconds": 100.0, "all_seconds": [100.0], "numbers": {"mmlu acc": 0.25}, "others": 0.0},
    "ratio": 1.05,
    "equal": True,
    "parser": {"answers": 200, "right": 160, "flagged": 9, "without": 31, "wrong": 0},
}


def test_each_target_is_met_at_its_bound_and_missed_beyond_it() -> None:
    page = generation_section(GENERATION)
    assert "| first token of turn 10 / of turn 2 | at most 1.5x | 1.50x | met |" in page
    assert "| tokens/s of a chat / plain `generate` | at least 0.97x | 0.976x | met |" in page
    assert "| at least 0.97x | 0.960x | **missed** |" in page
    assert "| time of plain `generate` / ours, 200 prompts | at least 1.3x | 1.200x | **missed** |" in page
    page = curation_section(CURATION)
    assert "| time of `datasets` / ours | at least 3x | 2.99x | **missed** |" in page
    assert "| peak memory | below 1,024 MiB | 1,023 MiB | met |" in page
    assert "| time of `datasets` / ours, languages and near-duplicates | at least 1x | 1.00x | met |" in page
    assert "| peak memory, languages and near-duplicates | below 3,072 MiB | 3,072 MiB | **missed** |" in page
    page = evaluation_section(EVALUATION)
    assert "| our time / lm-eval's | at most 1.05x | 1.050x | met |" in page
    assert "| odd replies of a judge, read right | at least 160 | 160 | met |" in page
    assert "| 160 | 9 | 31 | 0 |" in page
    assert "| numbers of both | equal | not equal | **missed** |" in evaluation_section({**EVALUATION, "equal": False})


@pytest.mark.parametrize("section", [generation_section(GENERATION), curation_section(CURATION), evaluation_section(EVALUATION)])
def test_a_section_says_where_and_when_and_takes_its_place(section: str) -> None:
    assert "Measured until 2026-11-30 21:00 UTC on 2 cores of P with 24 GiB (Linux x86_64, Python 3.11.7), with torch 2.13.0." in section
    title = section.partition("\n")[0]
    page = "# Benchmarks\n\nkept\n\n## Operator\n\nkept\n\n## On a GPU: not yet run\n\nkept\n"
    once = with_section(page, section)
    assert once == page.replace("## On a GPU", f"{section.rstrip()}\n\n## On a GPU")
    assert with_section(once, f"{title}\n\nanew\n") == page.replace("## On a GPU", f"{title}\n\nanew\n\n## On a GPU")


def test_the_parser_reads_each_odd_reply_one_way() -> None:
    found = parser_on_odd_replies()
    assert found["answers"] == 200 == sum(found.values()) - found["answers"]


def test_what_was_kept_is_not_measured_again(tmp_path: Path) -> None:
    measured = []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return {"seconds": len(measured)}

    for _ in range(2):
        assert Kept(tmp_path / "kept", {"rows": 10})("ours", measure) == {"seconds": 1}
    assert Kept(tmp_path / "kept", {"rows": 20})("ours", measure) == {"seconds": 2}
    assert Kept(None, {"rows": 10})("ours", measure) == {"seconds": 3}
