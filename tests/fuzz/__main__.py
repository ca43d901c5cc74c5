"""`python -m tests.fuzz`: COUNT cases over all targets, 100,000 by default, batch after batch, each with a seed of its own; then a table.

COUNT, SEED, FROM (the first batch, to go on where an earlier one was stopped) and ONLY (names with commas) come from the environment.
Exit code 1 when something was neither read nor refused; the smallest such case is printed.
"""

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.fuzz.run import Tally, run_batch
from tests.fuzz.targets import targets

BATCH = 200


def main() -> int:
    count, seed, first = (int(os.environ.get(name) or default) for name, default in (("COUNT", 100_000), ("SEED", 0), ("FROM", 0)))
    only = set(filter(None, os.environ.get("ONLY", "").split(",")))
    with tempfile.TemporaryDirectory(prefix="finetune-fuzz-") as folder:
        chosen = [target for target in targets(Path(folder)) if not only or target.name in only]
        if not chosen:
            print(f"ONLY={','.join(sorted(only))}: there is no such target", file=sys.stderr)
            return 2
        # A target of share 2 has every round two batches.
        turns = [target for target in chosen for _ in range(target.share)]
        tallies = {target.name: Tally() for target in chosen}
        done = first
        with suppress(KeyboardInterrupt):  # what was found until then is shown
            for number in range(first, -(-count // BATCH)):
                target = turns[number % len(turns)]
                if not tallies[target.name].failure:
                    began = time.monotonic()
                    run_batch(target, BATCH, seed=seed * 1_000_003 + number, tally=tallies[target.name])
                    print(f"batch {number}: {target.name}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
                done = number + 1
    print(f"batches {first} to {done - 1} of seed {seed}; FROM={done} goes on\n")
    print("| what | cases | refused | seconds | neither |\n| --- | --- | --- | --- | --- |")
    for name, tally in tallies.items():
        refused = f"{tally.refused / tally.cases:.0%}" if tally.cases else "-"
        print(
            f"| {name} | {tally.cases:,} | {refused} | {tally.seconds:.0f} | {tally.failure.splitlines()[0] if tally.failure else 'none'} |"
        )
    for name, tally in tallies.items():
        if tally.failure:
            print(f"\n{name}\n{tally.failure}")
    return 1 if any(tally.failure for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
