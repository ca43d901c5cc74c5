"""The parser on odd answers: at least 160 of 200 read right, the others flagged, and never a wrong score.

odd_answers.jsonl was written before the parser, unseen_answers.jsonl after it: of these 60, 29 of the 43 with a score were read at the
first try, after one round of corrections 32, and none wrong.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_assistant.judging.verdict import verdict_of

FOLDER = Path(__file__).parent


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").split("\n") if line]


def expected(row: dict[str, Any]) -> tuple[float, ...] | None:
    return None if row["expected"] is None else tuple(float(score) for score in row["expected"])


@pytest.mark.parametrize(("name", "many", "right"), [("odd_answers.jsonl", 200, 160), ("unseen_answers.jsonl", 60, 32)])
def test_odd_answers_are_read_right_or_flagged(name: str, many: int, right: int) -> None:
    read = [(row, verdict_of(row["text"], scores=row["wanted"])) for row in rows(name)]
    assert len(read) == many
    assert [row["text"] for row, verdict in read if verdict.scores is not None and verdict.scores != expected(row)] == []
    assert sum(verdict.scores is not None for _, verdict in read) >= right
    assert all(bool(verdict.problem) == (verdict.scores is None) for _, verdict in read)


@pytest.mark.parametrize("name", ["odd_answers.jsonl", "unseen_answers.jsonl"])
def test_contradictions_are_flagged_and_no_other(name: str) -> None:
    for row in rows(name):
        verdict = verdict_of(row["text"], scores=row["wanted"])
        assert verdict.contradiction == (row.get("contradiction", False) and verdict.scores is not None), row["text"]


@pytest.mark.parametrize(
    "form",
    [
        "{a} {b}",
        "{a}/8 {b}/8\nBecause.",
        "Assistant 1: {a}\nAssistant 2: {b}",
        "Assistant 2: {b}\nAssistant 1: {a}",
        "{b} (second), {a} (first)",
        "| Assistant 1 | Assistant 2 |\n|---|---|\n| Score | {a} | {b} |",
        '{{"assistant_2": {b}, "assistant_1": {a}}}',
        "{a}-{b}",
        "{a}/{b}",
        "{a},{b}",
        "{a} to {b}",
        "{a}\n{b}\nBecause.",
        "Scores: {a} and {b}. The first one has {b} tests.",
    ],
)
def test_a_form_is_read_for_all_scores_or_for_none(form: str) -> None:
    """A form that were read for some scores alone would favour one position."""
    read = {(a, b): verdict_of(form.format(a=a, b=b)).scores for a, b in itertools.product(range(1, 9), repeat=2)}
    assert {scores is None for scores in read.values()} in ({True}, {False}), read
    assert all(scores is None or scores == pair for pair, scores in read.items())


def test_a_reply_that_ends_at_its_scores_for_want_of_tokens_is_no_verdict() -> None:
    assert verdict_of("8 7", cut=True).problem == "the reply was cut where the scores are"
    assert verdict_of("8 7\nThe first", cut=True).scores == (8.0, 7.0)


def test_a_range_of_numbers_is_no_pair() -> None:
    assert verdict_of("The answer passes 5 out of 8 tests.", scores=1).scores is None
    assert verdict_of("Assistant 1 passes 5 out of 8 tests, assistant 2 passes 6 out of 8 tests.").scores is None


NONSENSE = ["8" * 5000, "7/" + "8" * 5000, "(" * 3000, "assistant 1 " * 2000, "8 7 " * 2000, "<think>" * 500, "| " * 3000]


@pytest.mark.parametrize("text", [*NONSENSE, '{"a":' * 800, '{"a":' * 3_000 + "1" + "}" * 3_000])
def test_long_nonsense_is_flagged(text: str) -> None:
    assert verdict_of(text).scores is None
