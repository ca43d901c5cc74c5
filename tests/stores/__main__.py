"""`make stores`: every check against every server, as the table of docs/stores.md. `python -m tests.stores moto s3proxy` prints some."""

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.stores.checks import CHECKS, outcome
from tests.stores.servers import SERVERS, Store

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/stores.md"
_BEFORE = """# Object storage that was tried

Written by `make stores`, which starts each server on loopback and runs the same checks against it (tests/stores/checks.py). CI runs
them against the cheapest of each kind: SeaweedFS, moto, moto behind a proxy of ours without atomic conditions, fake-gcs-server, Azurite.
A server that is refused is refused by the preparation, before any GPU. Amazon, Google and Azure themselves were not at hand.
moto is a test double: in other runs two of 16 writers won in 1 of 84 rounds (docs/decisions/0014), too seldom for a check to notice.

"""


def table(names: list[str]) -> str:
    """The checks' outcomes: a row a server, and when and where it was."""
    rows = [["server", "version", *CHECKS], ["---"] * (2 + len(CHECKS))]
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with SERVERS[name]() as store:
            rows.append([store.name, store.version, *_outcomes(store)])
    when = datetime.now(UTC).strftime("%-d %B %Y")
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n{when}, {os.cpu_count()} cores, server and client on one machine; MB/s: the better of three.\n"


def _outcomes(store: Store) -> Iterator[str]:
    """Of a server that is refused, nothing else matters."""
    (first, *others) = CHECKS.values()
    yield (taken := outcome(first, store))
    for check in others:
        began = time.monotonic()
        yield outcome(check, store) if taken == "taken" else "-"
        print(f"  {check.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    names = sys.argv[1:] or list(SERVERS)
    if unknown := set(names) - set(SERVERS):
        print(f"no server {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}", file=sys.stderr)
        return 2
    found = table(names)
    print(found)
    if names == list(SERVERS):
        DOCUMENT.write_text(_BEFORE + found)
    return 1 if "WRONG" in found else 0


if __name__ == "__main__":
    sys.exit(main())
