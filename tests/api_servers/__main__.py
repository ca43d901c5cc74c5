"""`make api-servers`: the tests that ask an API server, on one of each version.

`python -m tests.api_servers 1.30` prints that row alone.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.conftest import ROOT
from tests.pages import with_table
from tests.testcluster.binaries import BuildFailed, binaries

DOCUMENT = ROOT / "docs/cluster.md"
# By minor version, oldest first.
SERVERS: Final = {"1.30": "kube-apiserver-1.30", "1.34": "kube-apiserver", "1.36": "kube-apiserver-1.36"}
# Columns of the table.
TESTS: Final = {
    "definitions and verdicts": "tests/control_plane/test_crd.py",
    "changes, stored jobs": "tests/control_plane/test_crd_updates.py",
    "policies": "tests/chart/test_policies.py",
    "chart, rights": "tests/chart/test_on_api_server.py",
    "a job's life": "tests/control_plane/test_operator.py::test_a_job_goes_from_apply_to_published_and_everything_goes_with_it",
}
# The Job controller of the tests is 1.34's, beside each API server. It gives Jobs a condition, SuccessCriteriaMet, that 1.30 refuses: none
# ends there, ours or anybody's.
NOT_SHOWN: Final = {("kube-apiserver-1.30", "a job's life")}
Cell = str


def main(arguments: Sequence[str]) -> int:
    if unknown := set(arguments) - set(SERVERS):
        print(f"there are {', '.join(SERVERS)}, not {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    rows = {version: cells(name) for version, name in SERVERS.items() if not arguments or version in arguments}
    written = table(rows)
    print(written)
    if len(rows) == len(SERVERS):
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), "api-servers", written), encoding="utf-8")
    return 1 if any("**" in cell for row in rows.values() for cell in row) else 0


def cells(name: str) -> list[Cell]:
    """A cell a test, for the API server of that name, built first."""
    try:
        program = binaries([name])[name]
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return ["**does not build**", *("" for _ in TESTS)]
    with tempfile.TemporaryDirectory(prefix="finetune-api-server-") as folder:
        # The tests take programs from there before their own.
        (Path(folder) / "kube-apiserver").symlink_to(program)
        shown = ("not shown" if (name, title) in NOT_SHOWN else cell(test, Path(folder)) for title, test in TESTS.items())
        return [reported_version(program), *shown]


def cell(test: str, programs: Path) -> Cell:
    """How many of the tests passed; what failed is told on stderr."""
    report = programs / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", test]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"KUBEBUILDER_ASSETS": str(programs)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-20_000:], file=sys.stderr)
    return counted(report.read_text(encoding="utf-8")) if report.exists() else "**not run**"


def counted(report: str) -> Cell:
    """`n/n` of a JUnit report, marked where one is missing.

    >>> counted('<testsuites><testsuite tests="3" errors="0" failures="1" skipped="0"/></testsuites>')
    '**2/3**'
    """
    [suite] = ElementTree.fromstring(report).iter("testsuite")
    whole, bad = int(suite.attrib["tests"]), sum(int(suite.attrib[kind]) for kind in ("errors", "failures", "skipped"))
    return f"**{whole - bad}/{whole}**" if bad or not whole else f"{whole}/{whole}"


def reported_version(program: Path) -> str:
    """What it says of itself: `Kubernetes v1.34.2`."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def table(rows: dict[str, list[Cell]]) -> str:
    """A row a version."""
    return "\n".join(
        [
            f"| API server | {' | '.join(TESTS)} |",
            "| --- |" + " --- |" * len(TESTS),
            *(f"| {' | '.join(row)} |" for row in rows.values()),
            "",
            f"Tests that passed, of those there are; {datetime.now(UTC):%-d %B %Y}, by `make api-servers`. The controller manager is",
            "1.34's beside each: on 1.30 it ends no Job, for that API server refuses a condition which it gives them.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
