"""The summary of an evaluation, as it is read from a storage that others may write to."""

import json
from typing import Any

import pytest

from finetune_api.evaluation_summary import (
    LARGEST_SUMMARY_BYTES,
    LONGEST_SAMPLE,
    MOST_SAMPLES,
    EvaluationSummary,
    JudgeSummary,
    SampleSummary,
    parse_summary,
)

SAMPLE = SampleSummary(prompt="Why?", tuned_greedy="So.", tuned_sampled="Because.")
VERDICT = JudgeSummary(model="m", prompts=2, wins=1, win_rate=0.5, low=0.1, high=0.9)
SUMMARY = EvaluationSummary(digest="d", step=8, base_model="org/base", judge=VERDICT, samples=(SAMPLE,))


def test_what_was_written_is_read() -> None:
    assert parse_summary(SUMMARY.to_json().encode(), "d") == SUMMARY
    assert json.loads(SUMMARY.to_json())["schema"] == "finetune-evaluation-summary/1"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "finetune-evaluation-summary/2"},
        {"digest": "another"},
        {"step": -1},
        {"loss": "low"},
        {"judge": {"model": "m", "prompts": 2, "wins": 2, "winRate": 1.0, "low": 0.1, "high": 0.9}},
        {"samples": [{"prompt": "x" * (LONGEST_SAMPLE + 1), "tunedGreedy": "", "tunedSampled": ""}]},
        {"samples": [{"prompt": "", "tunedGreedy": "", "tunedSampled": ""}] * (MOST_SAMPLES + 1)},
    ],
)
def test_anything_else_is_none(changes: dict[str, Any]) -> None:
    value = json.loads(SUMMARY.to_json())
    assert parse_summary(json.dumps(value | {"added by a newer version": 1}).encode(), "d") == SUMMARY
    assert parse_summary(json.dumps(value | changes).encode(), "d") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"schema"', b" " * (LARGEST_SUMMARY_BYTES + 1)])
def test_no_summary_is_none(data: bytes) -> None:
    assert parse_summary(data, "d") is None
