"""`make reliability [FAULT=name,name] [SEEDS=3] [AGAIN=1]`: faults at random moments, a row each, and the page that shows them.

It resumes: what docs/reliability.jsonl says of this code already isn't done again. OUTAGE_SECONDS shortens outages.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.reliability import page, rows
from tests.reliability.local_faults import LOCAL_FAULTS, Unavailable
from tests.reliability.local_runs import Outcome, outcome
from tests.reliability.place import Bench, bench
from tests.reliability.rows import Row
from tests.reliability.shown import SHOWN, shown

FAULTS = (*LOCAL_FAULTS, *SHOWN)


def main() -> int:
    names = [name for name in os.environ.get("FAULT", "").split(",") if name] or [name for name in FAULTS if not _is_asked_for(name)]
    if unknown := [name for name in names if name not in FAULTS]:
        print(f"FAULT={','.join(unknown)}: there is no such fault; there are {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    seeds, again = int(os.environ.get("SEEDS", "3")), bool(os.environ.get("AGAIN"))
    with ExitStack() as stack:
        servers: list[Bench] = []

        def local(name: str, seed: int) -> Outcome:
            if not servers:
                servers.append(stack.enter_context(bench()))
            return outcome(LOCAL_FAULTS[name], servers[0], random.Random(f"{name} {seed}"))

        moments = [(name, seed) for seed in range(seeds) for name in names if seed == 0 or not _has_one_row(name)]
        missed = [_row(name, seed, local, again=again) for name, seed in moments]
    page.write(rows.read())
    return 1 if any(missed) else 0


def _has_one_row(name: str) -> bool:
    return name in SHOWN and bool(SHOWN[name].moments)


def _is_asked_for(name: str) -> bool:
    """Whether it is done only when it is named: it needs what few machines have, or half an hour."""
    return name in SHOWN and SHOWN[name].only_by_name


def _row(name: str, seed: int, local: Callable[[str, int], Outcome], *, again: bool) -> str:
    """Make the row, unless there is one of this code; what was missed of the bar."""
    code = rows.code()
    known = [row for row in rows.newest(rows.read()) if (row.fault, row.seed) == (name, seed) and code.is_of(row)]
    if known and not again:
        print(f"{name}, seed {seed}: {known[0].missed or 'met'} ({known[0].date}, {known[0].commit})", flush=True)
        return known[0].missed
    began = time.monotonic()
    try:
        found = local(name, seed) if name in LOCAL_FAULTS else shown(SHOWN[name], seed)
    except Unavailable as error:
        print(f"{name}: not done: {error}", flush=True)
        return ""
    row = Row(
        fault=name,
        seed=seed,
        moment=found.moment,
        missed=found.missed,
        steps_lost=found.steps_lost,
        seconds=found.seconds,
        rank_seconds=found.rank_seconds,
        commands=found.commands,
        said=found.said,
        commit=code.commit,
        date=rows.today(),
    )
    rows.append(row)
    print(f"{name}, seed {seed}, {row.moment}: {row.missed or 'met'}; {row.said} ({time.monotonic() - began:.0f} s)", flush=True)
    return row.missed


if __name__ == "__main__":
    sys.exit(main())
