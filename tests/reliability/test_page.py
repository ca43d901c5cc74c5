"""docs/reliability.md is what its rows say, and rows of other code are shown as such."""

from dataclasses import replace

import pytest
from tests.reliability import page, rows
from tests.reliability.cluster_faults import CLUSTER_FAULTS
from tests.reliability.local_faults import LOCAL_FAULTS
from tests.reliability.rows import CHANGED, Code, Row
from tests.reliability.shown import SHOWN

ROW = Row(
    fault="worker-killed", seed=0, moment="step 4 + 0.10 s, rank 1", missed="", steps_lost=2, seconds=9.04, rank_seconds=2.5, commands=2,
    said="worker 1 died | the same command goes on", commit="b" * 10, date="2026-12-01",
)  # fmt: skip


def test_the_page_shows_the_rows() -> None:
    text = page.DOCUMENT.read_text(encoding="utf-8")
    assert page.with_table(text, page.TARGET, page.written(rows.read())) == text, "run make reliability"


def test_rows_name_faults_and_moments_that_there_are() -> None:
    for row in rows.read():
        assert row.fault in {*LOCAL_FAULTS, *SHOWN, *CLUSTER_FAULTS, rows.SOAK}, row
    assert all(fault.moments or "[1]" in fault.of_seed(1)[0] or "-1]" in fault.of_seed(1)[0] for fault in SHOWN.values())


def test_what_was_missed_and_what_is_older_is_told() -> None:
    old = replace(ROW, seed=1, commit="a" * 10, missed="published 2 times")
    written = page.written([old, ROW])
    assert "2 rows, 2026-12-01: 1 met the bar, 1 missed it. The newest are of `bbbbbbbbbb`; 1 are older than that code" in written
    assert "| met | 2 | 9.0 (2.5) | 2 | worker 1 died \\| the same command goes on | `bbbbbbbbbb` |" in written
    assert "| **missed**: published 2 times |" in written
    assert "`aaaaaaaaaa`, older |" in written


def test_a_fault_of_a_cluster_has_a_table_of_its_own() -> None:
    went_on = replace(ROW, fault="cluster-dns-down", moment="step 12, attempt 1: for 30 s", seconds=None, rank_seconds=None, commands=1)
    written = page.written([ROW, went_on])
    assert "| no name is resolved (`cluster-dns-down`) | step 12, attempt 1: for 30 s | met | 2 | - | 1 |" in written


def test_a_row_is_of_this_code_until_the_product_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    differs = {"a" * 10: 1, "b" * 10: 0}
    monkeypatch.setattr(rows, "_git", lambda *words: type("Done", (), {"returncode": differs[words[2]]}))
    now = Code(commit="c" * 10 + CHANGED)
    assert [now.is_of(replace(ROW, commit=commit)) for commit in ("a" * 10, "b" * 10, now.commit, "d" * 10 + CHANGED)] == [
        False,
        True,
        True,
        False,
    ]
