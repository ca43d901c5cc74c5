"""The table of docs/cluster.md that `make upgrade` writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.conftest import ROOT
from tests.upgrade.former import FORMER

DOCUMENT = ROOT / "docs/cluster.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What happened, how long it and the steps that were waited for took, and what had become of the job."""

    what: str
    seconds: float
    first_step: int
    last_step: int
    attempts: int
    charged: int


def table(rows: Sequence[Row]) -> str:
    """A row a release."""
    lines = [
        "| beside a training that steps | s | steps | attempts | charged |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {one.what} | {one.seconds:.0f} | {one.first_step} to {one.last_step} | {one.attempts} | {one.charged} |" for one in rows),
        "",
        f"{datetime.now(UTC):%-d %B %Y}, by `make upgrade`: from chart, operator and trainer of commit {FORMER}, two nodes, two workers on",
        "CPUs. RayJob, pods, frozen run and identity stayed what they were until the job was suspended; its metrics have each step once.",
    ]
    return "\n".join(lines)
