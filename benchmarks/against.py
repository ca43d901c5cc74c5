"""The working tree against an earlier commit: processor time of a training step and of preparation. Prints a table; ends with 1 if slower.

    python -m benchmarks.against COMMIT --data ../shared/data [--alternations 10]

Both sides are what their own `benchmarks/` calls "ours", on the same rows and weights, in processes that take turns; the earlier
commit lies in a worktree for as long. A ratio is the earlier side's processor time by this one's, pair by pair: above 1, the working tree
is faster. Of the pairs' ratios the geometric mean is shown with its 95 % interval by Student's t, whose lower end has to be at least 0.97.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.preparation import write_rows
from benchmarks.tables import table

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.97
VOCABULARY = 16_384

# Run by each side's Python in its own checkout: the processor time of the steps, without what comes before them.
_STEPS = """
import argparse, json, os, pathlib, sys
import benchmarks.training as training
def steps(rows, step):
    spent = []
    for row in rows:
        before = sum(os.times()[:4])
        step(row)
        spent.append(sum(os.times()[:4]) - before)
    return {"cpu_seconds": sum(spent[training.WARM_UP:])}
training._steps = steps
options = argparse.Namespace(threads=os.cpu_count())
print(json.dumps(training.ours(pathlib.Path(sys.argv[1]), options)))
"""


def main() -> int:
    """The exit code."""
    options = _options()
    with TemporaryDirectory() as temporary, _checkout(options.commit, Path(temporary, "earlier")) as earlier:
        folder = Path(temporary)
        rows = [_measured(name, earlier, folder, options) for name in ("preparation", "training step")]
    print(table(["", f"CPU s at {options.commit}", "CPU s now", "earlier / now", "95 % interval", f"at least {LEAST}"], rows))
    return 1 if any("**" in row[-1] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("commit", help="what the working tree is compared with")
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--alternations", type=int, default=10, help="pairs of measurements")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of preparation")
    parser.add_argument("--steps", type=int, default=4, help="measured training steps of each process")
    return parser.parse_args()


@contextmanager
def _checkout(commit: str, folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _measured(name: str, earlier: Path, folder: Path, options: argparse.Namespace) -> list[str]:
    """A row of the table."""
    measure = _preparation if name == "preparation" else _training
    inputs, data = folder / name.replace(" ", "-"), Path(options.data).resolve()
    inputs.mkdir()
    _make_inputs(name, inputs, data, options)
    pairs: list[tuple[float, float]] = []
    for turn in range(options.alternations):
        sides = [(0, earlier), (1, ROOT)] if turn % 2 == 0 else [(1, ROOT), (0, earlier)]
        spent = {side: measure(checkout, inputs, data, f"{turn}-{side}") for side, checkout in sides}
        pairs.append((spent[0], spent[1]))
        print(f"{name}, pair {turn + 1}: {spent[0]:.2f} s and {spent[1]:.2f} s", file=sys.stderr, flush=True)
    ratio, low, high = interval([before / now for before, now in pairs])
    medians = [f"{statistics.median(side):.2f}" for side in zip(*pairs, strict=True)]
    return [name, *medians, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", "yes" if low >= LEAST else "**no**"]


def _make_inputs(name: str, folder: Path, data: Path, options: argparse.Namespace) -> None:
    """What both sides read."""
    if name == "preparation":
        write_rows(data, options.tokens, folder, 0.0)
    else:
        sizes = ["--vocabulary", str(VOCABULARY), "--steps", str(options.steps), "--threads", str(os.cpu_count())]
        command = ["-m", "benchmarks.training", "--worker", "inputs", "--folder", str(folder), "--data", str(data), *sizes]
        _output(ROOT, command)


def _preparation(checkout: Path, inputs: Path, data: Path, run: str) -> float:
    own = inputs / run
    own.mkdir()
    found = _output(checkout, ["-m", "benchmarks.preparation", "--worker", "ours", "--folder", str(own), "--data", str(data)])
    return float(found["cpu_seconds"])


def _training(checkout: Path, inputs: Path, data: Path, run: str) -> float:
    return float(_output(checkout, ["-c", _STEPS, str(inputs)])["cpu_seconds"])


def _output(checkout: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object in the last line that this Python prints in a checkout, with that checkout's source."""
    paths = os.pathsep.join(str(checkout / name) for name in ("operator", "trainer", "."))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(os.cpu_count())}
    environment = {**os.environ, **quiet, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The geometric mean of ratios, and the interval in which the true one lies with that confidence.

    >>> [round(number, 3) for number in interval([1.0, 1.1, 0.9, 1.05, 0.95])]
    [0.997, 0.904, 1.1]
    """
    logarithms = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.mean(logarithms), statistics.stdev(logarithms) / math.sqrt(len(ratios))
    reach = students_t(len(ratios) - 1, confidence) * error
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def students_t(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun 26.7.5).

    >>> [round(students_t(freedom), 2) for freedom in (9, 19, 29)]
    [2.26, 2.09, 2.05]
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


if __name__ == "__main__":
    sys.exit(main())
