"""docs/reliability.md, from the rows: what was done to runs, what became of them, and what that comes to at rates of failure."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.conftest import ROOT
from tests.pages import with_table
from tests.reliability.cluster_faults import CLUSTER_FAULTS
from tests.reliability.local_faults import LOCAL_FAULTS
from tests.reliability.rows import SOAK, Row, newest
from tests.reliability.shown import SHOWN
from tests.reliability.simulation import MEASURED, WANTED, goodput, slowest_return

DOCUMENT: Final = ROOT / "docs/reliability.md"
TARGET: Final = "reliability"

_LOCAL: Final = """## On one machine

Seconds to a new step: from the moment at which the next command is typed, all of it: an interpreter, its imports, looking at model, data
and storage; in brackets those of it since the ranks began to start: their process group, the model, reading the checkpoint, one step.
Without brackets the command got over it by itself, and they are counted from the fault. `-`: no step was left to do."""
_OTHERS: Final = """## On a control plane, and on a cluster

A real etcd, API server and controllers, operators as processes; kubelet and KubeRay are played, but for `cluster-...`: two real
nodes."""
_CLUSTER: Final = """## On a cluster

Two real nodes with containerd, KubeRay and S3 on one machine of two cores. One run of two workers goes through all of these; what it
comes to is compared, byte for byte, with a run that nobody disturbed. Seconds to a new step: from the fault, as the job's status tells it,
which is up to 10 s late; most of it is the start of pods, and of Ray in them. Attempts: how many the fault took, with the one that it
struck."""
_GOODPUT: Final = """## What it comes to

`tests/reliability/simulation.py` lets failures come by chance, for 54 days, twenty times over. A model of 70 B parameters on 1,000 GPUs
at the rate that Llama 3 saw (419 interruptions in 54 days on 16,384 GPUs), and at one that is 13 times as high. Costs, by what was
measured here: a checkpoint blocks {blocked:.2f} s (0.84 GB a GPU, copied at 4.5 GB/s), is committed after {upload:.0f} s (48 MB/s a
worker, to a storage server that shares two cores with it), and is read as slowly; a failure is noticed after {detection:.0f} s (decision
8), and new ranks are there after {restart:.0f} s, nearly all of it Ray's start. Interval: the trainer's own. How long 1,000 GPUs take to
meet was not measured: hence the last column."""


def write(rows: Sequence[Row], page: Path = DOCUMENT) -> None:
    """The page with these rows."""
    page.write_text(with_table(page.read_text(encoding="utf-8"), TARGET, written(rows)), encoding="utf-8")


def written(rows: Sequence[Row]) -> str:
    """The tables, and of which code they are: the newest row's. Rows of other code are marked as older."""
    costs = {name: getattr(MEASURED, name) for name in ("blocked", "upload", "detection", "restart")}
    goodput_part = f"{_GOODPUT.format(**costs)}\n\n{_goodput_table()}"
    if not rows:
        return f"No row yet.\n\n{goodput_part}"
    last, current = newest(rows), rows[-1].commit
    parts = [_summary(last, current)]
    if local := [row for row in last if row.fault in (*LOCAL_FAULTS, SOAK)]:
        parts += [_LOCAL, _local_table(local, current)]
    if others := [row for row in last if row.fault in SHOWN]:
        parts += [_OTHERS, _shown_table(others, current)]
    if clustered := [row for row in last if row.fault in CLUSTER_FAULTS]:
        parts += [_CLUSTER, _cluster_table(clustered, current)]
    return "\n\n".join([*parts, goodput_part])


def _summary(rows: Sequence[Row], current: str) -> str:
    met, older = sum(not row.missed for row in rows), sum(row.commit != current for row in rows)
    first, last = min(row.date for row in rows), max(row.date for row in rows)
    when = first if first == last else f"{first} to {last}"
    told = f"{len(rows)} rows, {when}: {met} met the bar, {len(rows) - met} missed it. The newest are of `{current}`"
    return f"{told}; {older} are older than that code, and say so." if older else f"{told}, and so are all others."


def _local_table(rows: Iterable[Row], current: str) -> str:
    order = [*LOCAL_FAULTS, SOAK]
    lines = [
        "| fault | moment | bar | steps lost | seconds to a new step | commands | what was said | code |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (order.index(row.fault), row.seed)):
        does = LOCAL_FAULTS[row.fault].does if row.fault in LOCAL_FAULTS else "any of these, one run after another"
        name = f"{does} (`{row.fault}`)" if row.seed == 0 else f"`{row.fault}`"
        cells = [name, row.moment, _bar(row), _number(row.steps_lost), _seconds(row), str(row.commands), row.said, _code(row, current)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _shown_table(rows: Iterable[Row], current: str) -> str:
    lines = ["| fault | moments | bar | what is said | shown by | code |", "| --- | --- | --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: ([*SHOWN].index(row.fault), row.seed)):
        fault = SHOWN[row.fault]
        tests = ", ".join(f"`{test.rpartition('::')[2] or test}`" for test in fault.tests)
        name = f"{fault.does} (`{row.fault}`)" if row.seed == 0 else f"`{row.fault}`"
        lines.append(_line([name, row.moment, _bar(row), row.said, tests, _code(row, current)]))
    return "\n".join(lines)


def _cluster_table(rows: Iterable[Row], current: str) -> str:
    lines = [
        "| fault | moment | bar | steps lost | seconds to a new step | attempts | what was said | code |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: [*CLUSTER_FAULTS].index(row.fault)):
        name = f"{CLUSTER_FAULTS[row.fault].does} (`{row.fault}`)"
        counted = [_number(row.steps_lost), _seconds(row), str(row.commands)]
        lines.append(_line([name, row.moment, _bar(row), *counted, row.said, _code(row, current)]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _bar(row: Row) -> str:
    return f"**missed**: {row.missed}" if row.missed else "met"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _seconds(row: Row) -> str:
    if row.seconds is None:
        return "-"
    return f"{row.seconds:.1f}" if row.rank_seconds is None else f"{row.seconds:.1f} ({row.rank_seconds:.1f})"


def _code(row: Row, current: str) -> str:
    return f"`{row.commit}`" if row.commit == current else f"`{row.commit}`, older"


def _goodput_table() -> str:
    lines = [
        "| mean time between failures | goodput | wanted | the slowest way back with which it is still so |",
        "| --- | --- | --- | --- |",
    ]
    for hours, wanted in WANTED:
        found, slowest = goodput(MEASURED, hours), slowest_return(MEASURED, hours, wanted)
        lines.append(f"| {hours} h | {found:.1%} | {wanted:.0%} | {slowest:.0f} s, in place of {MEASURED.back:.0f} s |")
    return "\n".join(lines)
