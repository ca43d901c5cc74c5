"""`finetune run examples/tiny.yaml` of the working tree beside that of an earlier commit: wall and processor time. Prints a JSON object.

    python -m benchmarks.startup [6bee474] [--alternations 5] [--page docs/benchmarks.md]

Both sides are whole runs of their own example, each in a new folder, which take turns; DeepSpeed's op is compiled before. A ratio is this
side's time by the earlier one's, pair by pair: below 1, the working tree is faster.
Processor time is that of every process which descends from the command, looked at five times a second: Ray's processes outlive their
parents, whose own count leaves them out. What a process does after the last look is missing, so the sum is a little low on both sides.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.against import checkout
from benchmarks.machine import wait_until_quiet
from benchmarks.sections import provenance, with_section
from benchmarks.startup_document import startup_section

# The last build whose runs started Ray, and whose every rank imported all that it might need.
BASELINE: Final = "6bee474"
PACKAGES: Final = ["finetune-operator", "torch", "transformers", "deepspeed"]
ROOT = Path(__file__).resolve().parent.parent
_LOOK_SECONDS = 0.2
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    options = _options()
    found = measure(options)
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), startup_section(found)), encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """(Wall, processor) seconds of the earlier side and of this one, pair by pair."""
    pairs = []
    with TemporaryDirectory() as temporary, checkout(options.commit, Path(temporary, "earlier")) as earlier:
        for turn in range(options.alternations):
            wait_until_quiet(options.wait)
            sides = {tree: _run(tree) for tree in ((earlier, ROOT) if turn % 2 == 0 else (ROOT, earlier))}
            pairs.append((sides[earlier], sides[ROOT]))
            told = " and ".join(f"{wall:.1f} s ({processor:.1f} s of processor time)" for wall, processor in pairs[-1])
            print(f"  pair {turn + 1}: {told}", file=sys.stderr, flush=True)
    return {"commit": options.commit, "pairs": pairs, **provenance(PACKAGES)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("commit", nargs="?", default=BASELINE, help="what the working tree is compared with")
    parser.add_argument("--alternations", type=int, default=5, help="pairs of runs")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each pair")
    parser.add_argument("--page", type=Path, help="file whose section is written anew")
    return parser.parse_args()


def _run(tree: Path) -> tuple[float, float]:
    """Wall and processor seconds of one run."""
    paths = os.pathsep.join(str(tree / name) for name in ("operator", "trainer"))
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "finetune_cli.app", "run", str(tree / "examples/tiny.yaml"), "--json"]
        places = ["--run-folder", f"{folder}/run", "--set", f"publish.directory.path={folder}/published"]
        with _Processes() as spent:
            began = time.monotonic()
            done = subprocess.run([*command, *places], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
            wall = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stdout[-2000:]}{done.stderr}")
    return wall, spent.seconds


class _Processes(threading.Thread):
    """Adds up the processor time of this process's descendants while the block runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        # Who loses its parent becomes this process's child.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._over, self._ticks = threading.Event(), dict[tuple[int, int], int]()

    @property
    def seconds(self) -> float:
        """So far, of those that are gone too."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> "_Processes":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            parents, ticks = {}, {}
            for pid, parent, started, used in _processes():
                parents[pid], ticks[pid] = parent, (started, used)
            for pid, (started, used) in ticks.items():
                if _descends(pid, parents):
                    self._ticks[pid, started] = used


def _processes() -> list[tuple[int, int, int, int]]:
    """(id, parent, start, ticks of processor time) of every process: fields 4, 22, 14 and 15 of proc_pid_stat(5)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            found.append((int(entry.name), int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])))
    return found


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid > 1 and (pid := parents.get(pid, 0)) != os.getpid():
        pass
    return pid > 1


if __name__ == "__main__":
    main()
