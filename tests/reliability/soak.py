"""`make soak [SOAK_SECONDS=3600]`: run after run, each with a fault that chance draws, until the time is over; one row for all."""

import os
import random
import sys
import time

from tests.reliability import page, rows
from tests.reliability.local_faults import LOCAL_FAULTS, Unavailable
from tests.reliability.local_runs import outcome
from tests.reliability.place import bench
from tests.reliability.rows import SOAK, Row


def main() -> int:
    seconds, seed = float(os.environ.get("SOAK_SECONDS", "3600")), int(os.environ.get("SEED", str(random.randrange(1_000_000))))
    chance, began, code = random.Random(seed), time.monotonic(), rows.code()
    done: list[str] = []
    missed: list[str] = []
    lost = commands = 0
    with bench() as servers:
        while time.monotonic() - began < seconds:
            name, moment = chance.choice([*LOCAL_FAULTS]), chance.randrange(1_000_000)
            try:
                found = outcome(LOCAL_FAULTS[name], servers, random.Random(f"{name} {moment}"))
            except Unavailable as error:
                print(f"{name}: not done: {error}", flush=True)
                continue
            done.append(name)
            lost, commands = lost + (found.steps_lost or 0), commands + found.commands
            missed += [f"{name}, seed {moment}: {found.missed}"] if found.missed else []
            print(f"{len(done)}: {name}, seed {moment}, {found.moment}: {found.missed or 'met'}; {found.said}", flush=True)
    minutes = (time.monotonic() - began) / 60
    rows.append(
        Row(
            fault=SOAK,
            seed=0,
            moment=f"{len(done)} runs in {minutes:.0f} minutes, seed {seed}",
            missed="; ".join(missed),
            steps_lost=lost,
            seconds=None,
            rank_seconds=None,
            commands=commands,
            said=f"{len(set(done))} kinds of faults",
            commit=code.commit,
            date=rows.today(),
        )
    )
    page.write(rows.read())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
