"""`make reliability [FAULT=name,name] [SEEDS=3] [AGAIN=1]`: faults at random moments, a row each, and the page that shows them.

It resumes: what docs/reliability.jsonl says of this code already isn't done again. OUTAGE_SECONDS shortens outages, CLUSTER_STEPS
the run on a cluster, which all faults of a cluster that are named share.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.reliability import cluster_runs, page, rows
from tests.reliability.cluster_faults import CLUSTER_FAULTS
from tests.reliability.cluster_place import cluster_place
from tests.reliability.local_faults import LOCAL_FAULTS, Unavailable
from tests.reliability.local_runs import Outcome, outcome
from tests.reliability.place import Bench, bench
from tests.reliability.rows import Row
from tests.reliability.shown import SHOWN, shown

FAULTS = (*LOCAL_FAULTS, *SHOWN, *CLUSTER_FAULTS)


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

        on_cluster: dict[str, Outcome] = {}

        def clustered(name: str, seed: int) -> Outcome:
            """All that are asked for and have no row are done to one run."""
            if not on_cluster:
                if os.geteuid() != 0:
                    raise Unavailable("it starts real nodes: run it as root")
                asked = [one for one in names if one in CLUSTER_FAULTS and (again or _known(one, 0) is None)]
                with cluster_place() as place:
                    on_cluster.update(cluster_runs.outcomes(place, asked))
            return on_cluster[name]

        moments = [(name, seed) for seed in range(seeds) for name in names if seed == 0 or not _has_one_row(name)]
        kinds = {name: local for name in LOCAL_FAULTS} | {name: clustered for name in CLUSTER_FAULTS}
        missed = [_row(name, seed, kinds.get(name, _shown), again=again) for name, seed in moments]
    page.write(rows.read())
    return 1 if any(missed) else 0


def _has_one_row(name: str) -> bool:
    return name in CLUSTER_FAULTS or (name in SHOWN and bool(SHOWN[name].moments))


def _is_asked_for(name: str) -> bool:
    """Whether it is done only when it is named: it needs what few machines have, or half an hour."""
    return name in CLUSTER_FAULTS or (name in SHOWN and SHOWN[name].only_by_name)


def _shown(name: str, seed: int) -> Outcome:
    return shown(SHOWN[name], seed)


def _known(name: str, seed: int) -> Row | None:
    """Its row of this code, if there is one."""
    code = rows.code()
    return next((row for row in rows.newest(rows.read()) if (row.fault, row.seed) == (name, seed) and code.is_of(row)), None)


def _row(name: str, seed: int, does: Callable[[str, int], Outcome], *, again: bool) -> str:
    """Make the row, unless there is one of this code; what was missed of the bar."""
    known, code = _known(name, seed), rows.code()
    if known is not None and not again:
        print(f"{name}, seed {seed}: {known.missed or 'met'} ({known.date}, {known.commit})", flush=True)
        return known.missed
    began = time.monotonic()
    try:
        found = does(name, seed)
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
