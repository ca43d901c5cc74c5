"""All benchmarks, one after another, and docs/benchmarks.md from what they measured: `make benchmarks`.

python -m benchmarks [--data ../shared/data] [--peers .venv-benchmarks/bin/python] [--output docs/benchmarks.md]
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.document import SECTIONS, document

from benchmarks import machine

OURS = ["finetune-operator", "torch", "transformers", "deepspeed", "tokenizers"]
PEERS = ["trl", "transformers", "accelerate", "torch", "datasets", "tokenizers"]


def main() -> None:
    options = _options()
    data = Path(options.data)
    if not (data / "oasst1_en_trees.jsonl").is_file():
        sys.exit(f"no oasst1_en_trees.jsonl in {data}: FINETUNE_TEST_DATA names the folder of real files that benchmarks read")
    if not Path(options.peers).is_file():
        sys.exit(f"no {options.peers}, the Python of an environment with requirements/benchmarks.txt: `make benchmarks` makes it")
    results: dict[str, Any] = {
        "run": uuid.uuid4().hex,
        "begun": _now(),
        "machine": machine.describe(),
        "versions": {"ours": {name: version(name) for name in OURS}, "peers": _peer_versions(options.peers)},
    }
    for name in SECTIONS:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        results[name] = {**_measured(name, options), "run": results["run"]}
    results["ended"] = _now()
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    Path(options.output).write_text(document(results), encoding="utf-8")
    print(f"wrote {options.output}", file=sys.stderr)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure everything and write docs/benchmarks.md")
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--peers", default=".venv-benchmarks/bin/python", help="Python of the environment with TRL")
    parser.add_argument("--output", default="docs/benchmarks.md")
    parser.add_argument("--json", help="file for the figures as they were measured")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    return parser.parse_args()


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object that a benchmark prints. What it says on stderr is shown as it comes."""
    takes_data = name in ("preparation", "training", "curation", "evaluation")
    sides = ["--data", options.data, "--peers", options.peers] if takes_data else []
    command = [sys.executable, "-m", f"benchmarks.{name}", *sides, "--wait", str(options.wait)]
    with tempfile.TemporaryFile("w+") as output:
        subprocess.run(command, check=True, stdout=output)
        output.seek(0)
        measured: dict[str, Any] = json.load(output)
    return measured


def _peer_versions(python: str) -> dict[str, str]:
    program = f"import json; from importlib.metadata import version; print(json.dumps({{name: version(name) for name in {PEERS}}}))"
    versions: dict[str, str] = json.loads(subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout)
    return versions


if __name__ == "__main__":
    main()
