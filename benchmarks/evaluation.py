"""`finetune evaluate` measured against lm-eval's own command, on the same files. Prints one JSON object.

    python -m benchmarks.evaluation --data ../shared/data --model FOLDER [--tasks mmlu,truthfulqa_mc2] [--limit 20] [--repeats 3]

Both ask the model of `--model` the same documents with the same shots, in the same precision and batches: lm-eval's command reads the
definitions that ours writes. Each is a process of its own from its start to its last number; they take turns, and the median of the
repeats is compared. `equal` says whether all numbers were.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

_BATCH = 8


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=1))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of both sides, and what each found."""
    seconds: dict[str, list[float]] = {"ours": [], "lm_eval": []}
    found: dict[str, dict[str, float]] = {}
    for _ in range(options.repeats):
        for side, run in (("ours", _ours), ("lm_eval", _theirs)):
            began = time.perf_counter()
            found[side] = run(options, folder)
            seconds[side].append(round(time.perf_counter() - began, 2))
            print(f"  {side}: {seconds[side][-1]:.0f} s", file=sys.stderr, flush=True)
    times = {side: median(each) for side, each in seconds.items()}
    return {
        "tasks": options.tasks,
        "limit": options.limit,
        "seconds": times,
        "all_seconds": seconds,
        "ratio": times["ours"] / times["lm_eval"],
        "equal": found["ours"] == found["lm_eval"],
        "numbers": found["ours"],
    }


def _ours(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    command = ["evaluate", options.model, "--tasks", options.tasks, "--task-data", options.data, "--task-folder", str(folder / "tasks")]
    settings = ["--limit", str(options.limit), "--batch-size", str(_BATCH), "--output", str(folder / "ours.json")]
    _run([sys.executable, "-m", "finetune_cli.app", *command, *settings])
    (model,) = json.loads((folder / "ours.json").read_text())["models"]
    return {f"{one['task']} {one['metric']}": one["value"] for one in model["results"]}


def _theirs(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    (model,) = json.loads((folder / "ours.json").read_text())["models"]
    template = ["--apply_chat_template"] if any(one["chatTemplate"] for one in model["results"]) else []
    written = folder / f"theirs-{time.monotonic_ns()}"
    command = ["run", "--model", "hf", "--model_args", f"pretrained={options.model}", "--include_path", str(folder / "tasks"), *template]
    settings = ["--limit", str(options.limit), "--batch_size", str(_BATCH), "--device", model["device"], "--output_path", str(written)]
    _run([sys.executable, "-m", "lm_eval", *command, "--tasks", *options.tasks.split(","), *settings])
    (results,) = written.rglob("results_*.json")
    numbers: dict[str, dict[str, Any]] = json.loads(results.read_text())["results"]
    return {
        f"{task} {key.partition(',')[0]}": value
        for task, its in numbers.items()
        for key, value in its.items()
        if key.endswith(",none") and "_stderr" not in key
    }


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--model", default=str(Path("~/.cache/finetune/smollm2").expanduser()), help="folder of the model that is asked")
    parser.add_argument("--tasks", default="mmlu,truthfulqa_mc2")
    parser.add_argument("--limit", type=int, default=20, help="documents of each task")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
