"""One family's way, typed as a user types it: `finetune run`, `finetune export`, and the folder in plain Transformers.

Compared: the logits that plain Transformers computes, one conversation at a time, with those of the trained model as we train it: our
attention, dialogues packed in one row where the family allows it, and the weights of the last checkpoint.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.conftest import ROOT
from tests.exported_models import model_of_run
from tests.families.arrived import STEPS, Arrived
from tests.families.models import base_model
from tests.trainer.architectures import packed

from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import CheckpointStore
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.model.attention import boundary_arguments
from finetune_trainer.model.loss import LossModel, install_loss_head
from finetune_trainer.model.method import Method
from finetune_trainer.model.micro_batch import MicroBatch, single_dialogues
from finetune_trainer.model.trial import choose_method
from finetune_trainer.publishing.export import CheckpointWeights
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets

Logits = np.ndarray[Any, Any]
FINETUNE = Path(sys.executable).with_name("finetune")
# Of different lengths, some longer than the windows of the families that have one.
QUESTIONS = ("What is a tree?", "Why is the sky blue, and why is it red in the evening? " * 2, "Hi")
_SECONDS = 900
_VOCABULARY = json.loads((ROOT / "examples/tiny/config.json").read_text())["vocab_size"]


def travelled(family: str, place: Path) -> Arrived:
    """The whole way in a folder that isn't there yet. Raises RuntimeError with the end of what a command said."""
    place.mkdir()
    base = base_model(family, place / "base", _VOCABULARY)
    write_atomically(place / "job.yaml", json.dumps(_job(base)))
    events = _finetune(place, "run", "job.yaml", "--json", "--run-folder", "run")
    _finetune(place, "export", "run", "--output", "exported", "--json")
    (place / "questions.json").write_text(json.dumps(QUESTIONS))
    plain = _read_by_plain_transformers(place)
    numbers = range(len(QUESTIONS))
    method, before, after = _logits_of_ours(place / "run", base, packed(*[plain[f"ids-{number}"].tolist() for number in numbers]))
    return Arrived(
        packed=method.packed,
        apart=_apart(after, np.concatenate([plain[f"logits-{number}"] for number in numbers])),
        moved=_apart(before, after),
        losses=tuple(event["loss"] for event in events if event.get("kind") == "StepDone"),
    )


def _job(base: Path) -> Mapping[str, Any]:
    """JSON is YAML."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "family"},
        "spec": {
            "model": {"name": str(base)},
            "dataset": {"sources": [{"path": str(ROOT / "tests/data/tiny_dialogues.jsonl")}]},
            "training": {
                "maxSteps": STEPS,
                "epochs": None,
                "maxSequenceLength": 128,
                "microBatchSize": 1,
                "globalBatchSize": 4,
                "precision": "fp32",
                "optimizer": {"learningRate": 5e-3, "warmupSteps": 0},
            },
            "workers": {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2},
        },
    }


def _finetune(place: Path, *arguments: str) -> list[dict[str, Any]]:
    """The objects that `--json` prints, a line each."""
    done = subprocess.run([FINETUNE, *arguments], cwd=place, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"finetune {' '.join(arguments)}: exit {done.returncode}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _read_by_plain_transformers(place: Path) -> Mapping[str, Logits]:
    """In a process that finds nothing of this project."""
    command = [sys.executable, "-I", "-W", "ignore", ROOT / "tests/families/plain.py", "exported", "questions.json", "read.npz"]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=place, env=os.environ | quiet, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"plain Transformers: {done.stderr[-3000:]}")
    return dict(np.load(place / "read.npz"))


def _logits_of_ours(run_folder: Path, base: Path, row: MicroBatch) -> tuple[Method, Logits, Logits]:
    """The model in memory, as the engine builds and calls it: the logits before training, and with what the last checkpoint holds."""
    folder = RunFolder(run_folder)
    run = folder.frozen_run()
    assert run is not None
    method = choose_method(base, run.job.spec.training)
    model = model_of_run(run, base, attention=method.attention)
    whole = install_loss_head(model, method).eval()
    before = _logits(whole, method, row)
    _load(model, job_checkpoints(run.job, base=run_folder, default=folder.storage, secrets=Secrets()))
    return method, before, _logits(whole, method, row)


def _load(model: Any, store: CheckpointStore) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with store.reader(store.open(STEPS)) as reader, torch.no_grad():
        weights = CheckpointWeights(reader)
        for name, shape in weights.shapes.items():
            tensors[name].copy_(torch.from_numpy(weights.read(name, 0, math.prod(shape)).copy()).reshape(shape))


@torch.no_grad()
def _logits(whole: LossModel, method: Method, row: MicroBatch) -> Logits:
    calls: Sequence[MicroBatch] = [row] if method.packed else single_dialogues(row)
    return torch.cat([whole(**_inputs(call)).float() for call in calls]).numpy()


def _inputs(row: MicroBatch) -> dict[str, Any]:
    tensors = {name: torch.as_tensor(getattr(row, name))[None] for name in ("input_ids", "position_ids")}
    return tensors | boundary_arguments(row, torch.device("cpu"))


def _apart(one: Logits, other: Logits) -> float:
    """The largest difference, relative to the range of the second."""
    return float(np.abs(one - other).max() / np.ptp(other))
