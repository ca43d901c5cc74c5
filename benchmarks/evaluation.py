"""`finetune evaluate` measured against lm-eval's own command, on the same files; and the judge's parser. Prints one JSON object.

    python -m benchmarks.evaluation --data ../shared/data [--model FOLDER] [--tasks mmlu,truthfulqa_mc2] [--limit 20] [--repeats 3]

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.assistant_document import evaluation_section
from benchmarks.machine import least_disturbed, measured
from benchmarks.sections import Kept, provenance, with_section

ODD_REPLIES = Path(__file__).parents[1] / "tests/assistant/judging/odd_answers.jsonl"
PACKAGES = ["finetune-operator", "lm-eval", "torch", "transformers"]
_BATCH = 8
_TAKES = "As it is it takes some 25 minutes on two quiet cores (estimated); `--limit 1 --repeats 1` tries all of it in one."


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_WORKERS[options.worker](options, Path(options.folder))))
        return
    if not (Path(options.model) / "config.json").is_file():
        sys.exit(f"no model in {options.model}: make ~/.cache/finetune/smollm2/model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), evaluation_section(found)), encoding="utf-8")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of both sides, what each found, and how the parser reads."""
    settings = {name: getattr(options, name) for name in ("tasks", "limit", "repeats")}
    kept = Kept(options.keep, {**settings, "model": str(options.model)})
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in _WORKERS}
    for repeat in range(options.repeats):
        for side in _WORKERS:
            runs[side].append(kept(f"{side}-{repeat}", partial(_measured, side, options, folder)))
    found: dict[str, Any] = {side: _median(each) for side, each in runs.items()}
    return {
        **settings,
        **found,
        "ratio": found["ours"]["seconds"] / found["lm_eval"]["seconds"],
        "equal": all(one["numbers"] == found["ours"]["numbers"] for each in runs.values() for one in each),
        "parser": parser_on_odd_replies(),
        **provenance(PACKAGES),
    }


def parser_on_odd_replies() -> dict[str, int]:
    """How the judge's parser reads them. `flagged`: replies that have one right score, `without`: those that have none."""
    from finetune_assistant.judging.verdict import verdict_of

    found = {"answers": 0, "right": 0, "flagged": 0, "without": 0, "wrong": 0}
    for line in filter(None, ODD_REPLIES.read_text(encoding="utf-8").split("\n")):
        row = json.loads(line)
        scores, expected = verdict_of(row["text"], scores=row["wanted"]).scores, row["expected"]
        found["answers"] += 1
        if scores is None:
            found["without" if expected is None else "flagged"] += 1
        else:
            found["right" if expected is not None and scores == tuple(map(float, expected)) else "wrong"] += 1
    return found


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    return {**min(runs, key=lambda run: abs(run["seconds"] - median(seconds))), "seconds": median(seconds), "all_seconds": seconds}


def _measured(side: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--worker", side, "--folder", str(folder), "--data", options.data]
    command += ["--model", options.model, "--tasks", options.tasks, "--limit", str(options.limit)]
    return least_disturbed(side, lambda _attempt: measured(command), options.wait)


def _ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    seconds = _run(_our_command(options, folder))
    (model,) = json.loads((folder / "ours.json").read_text())["models"]
    return {"seconds": seconds, "numbers": {f"{one['task']} {one['metric']}": one["value"] for one in model["results"]}}


def _our_command(options: argparse.Namespace, folder: Path) -> list[str]:
    command = ["evaluate", options.model, "--tasks", options.tasks, "--task-data", options.data, "--task-folder", str(folder / "tasks")]
    settings = ["--limit", str(options.limit), "--batch-size", str(_BATCH), "--output", str(folder / "ours.json")]
    return [sys.executable, "-m", "finetune_cli.app", *command, *settings]


def _theirs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if not (folder / "ours.json").is_file():  # the definitions, and what we chose for the model; ours was kept of an earlier try
        _run(_our_command(options, folder))
    (model,) = json.loads((folder / "ours.json").read_text())["models"]
    template = ["--apply_chat_template"] if any(one["chatTemplate"] for one in model["results"]) else []
    written = folder / f"theirs-{time.monotonic_ns()}"
    command = ["run", "--model", "hf", "--model_args", f"pretrained={options.model}", "--include_path", str(folder / "tasks"), *template]
    settings = ["--limit", str(options.limit), "--batch_size", str(_BATCH), "--device", model["device"], "--output_path", str(written)]
    seconds = _run([sys.executable, "-m", "lm_eval", *command, "--tasks", *options.tasks.split(","), *settings])
    (results,) = written.rglob("results_*.json")
    numbers: dict[str, dict[str, Any]] = json.loads(results.read_text())["results"]
    return {
        "seconds": seconds,
        "numbers": {
            f"{task} {key.partition(',')[0]}": value
            for task, its in numbers.items()
            for key, value in its.items()
            if key.endswith(",none") and "_stderr" not in key
        },
    }


def _run(command: list[str]) -> float:
    """Seconds that it took. What it says is shown only if it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return round(time.perf_counter() - began, 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None, epilog=_TAKES)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--model", default=str(Path("~/.cache/finetune/smollm2").expanduser()), help="folder of the model that is asked")
    parser.add_argument("--tasks", default="mmlu,truthfulqa_mc2")
    parser.add_argument("--limit", type=int, default=20, help="documents of each task")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each measurement there, and take those that are kept")
    parser.add_argument("--page", type=Path, help="file whose section about evaluation is written anew")
    parser.add_argument("--peers", help="not used: the peer is a library that we use, too")
    parser.add_argument("--worker", choices=list(_WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


_WORKERS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {"ours": _ours, "lm_eval": _theirs}


if __name__ == "__main__":
    main()
