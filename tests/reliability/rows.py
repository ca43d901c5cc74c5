"""A row: one fault at one moment, and what became of it. Rows are lines of docs/reliability.jsonl; none is ever changed."""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import ROOT

RESULTS = ROOT / "docs/reliability.jsonl"
CHANGED = "+changes"
# The name of a soak's row, which stands for many faults.
SOAK = "soak"
# What a row says something about.
_PRODUCT = ("operator", "trainer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`missed`: what of the bar was not kept; empty is kept. `said`: what the status or the command line said of the fault.

    `seconds`: from the beginning of the command that goes on to its first new step, or from the fault to it where the command got over it
    by itself; of these, `rank_seconds` since the ranks began to start. None where no step was left to do.
    """

    fault: str
    seed: int
    moment: str
    missed: str
    steps_lost: int | None
    seconds: float | None
    rank_seconds: float | None
    commands: int
    said: str
    commit: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What runs: its commit, with CHANGED where the working tree differs."""

    commit: str

    def is_of(self, row: Row) -> bool:
        """Whether the row tells of this code: of its commit, or of one since which the product hasn't changed."""
        if row.commit == self.commit:
            return True
        return CHANGED not in row.commit and _git("diff", "--quiet", row.commit, "--", *_PRODUCT).returncode == 0


def code() -> Code:
    """Of this working tree."""
    commit = _git("rev-parse", "--short=10", "HEAD").stdout.strip() or "unknown"
    changed = _git("diff", "--quiet", "HEAD", "--", *_PRODUCT).returncode
    return Code(commit=commit + (CHANGED if changed else ""))


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(["git", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def read(path: Path = RESULTS) -> list[Row]:
    """The rows so far, in the order in which they were made."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def append(row: Row, path: Path = RESULTS) -> None:
    """One line more."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each fault and seed, in the order of the faults' first rows.

    >>> rest = dict(moment="", missed="", steps_lost=0, seconds=None, rank_seconds=None, commands=2, said="", date="2026-12-01")
    >>> made = [Row(fault=fault, commit=commit, seed=0, **rest) for fault, commit in ("b1", "a1", "b2")]
    >>> [(one.fault, one.commit) for one in newest(made)]
    [('b', '2'), ('a', '1')]
    """
    last: dict[tuple[str, int], Row] = {}
    for row in rows:
        last[row.fault, row.seed] = row
    return list(last.values())
