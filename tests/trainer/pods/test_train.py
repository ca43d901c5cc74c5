"""The driver's command where nothing is left to train; tests/trainer/pods/test_stages.py trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.api.jobs import STARCODERBASE, data_shape, job

from finetune_api.plan import plan
from finetune_api.pod_result import parse_pod_result
from finetune_api.training_run import TrainingRun, Vocabulary, run_identity
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import Piece
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.kept_runs import kept_runs, life_of, pieces
from finetune_trainer.training.early_stopping import Evaluated, as_extra


def stopped_run(folder: Path) -> TrainingRun:
    """A run of 87 steps whose storage holds the checkpoint of step 30, after three evaluations that got no better."""
    shape = STARCODERBASE.model_copy(update={"parameters": 150_000, "layers": 2, "hidden_size": 64, "head_size": 16, "attention_heads": 4})
    data = data_shape()
    data = data.model_copy(update={"evaluation": data.train})
    found = job(
        dataset={"evaluation": {"fraction": 0.1}},
        evaluation={"everySteps": 10, "earlyStopping": {"patience": 3}},
        checkpoints={"storage": str(folder / "storage")},
        reportTo=[],
    )
    run = TrainingRun(
        job=found,
        identity=run_identity(found),
        model_revision="a" * 40,
        model_shape=shape,
        vocabulary=Vocabulary(size=shape.vocabulary_size),
        data=data,
        plan=plan(found, shape, data),
    )
    store = job_checkpoints(found, base=folder, default=folder, secrets=Secrets({})).claimed()
    piece = Piece(kind="master", name="weight", shape=(2,), start=0, stop=2, data=np.zeros(2, np.float32))
    losses = [Evaluated(0, 1.0), Evaluated(10, 1.5), Evaluated(20, 1.5), Evaluated(30, 1.5)]
    inputs = {"data": data.fingerprint, "model": run.model_revision}
    store.commit(30, [store.write_part(30, 0, [piece])], as_extra(30, losses) | inputs)
    return run


def test_an_attempt_after_one_that_ended_early_is_done_without_ray(tmp_path: Path) -> None:
    """The attempt before it was killed when its last checkpoint was committed, before it could tell anybody."""
    run = stopped_run(tmp_path)
    (tmp_path / "run.json").write_text(run.to_json())
    places = {"FINETUNE_RUN": str(tmp_path / "run.json"), "FINETUNE_SCRATCH": str(tmp_path / "scratch"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "finetune_trainer.pods", "train"]
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = parse_pod_result(done.stdout.splitlines()[-1])
    assert result is not None
    assert (result.outcome, result.reason) == ("Done", "StoppedEarly")
    told = "stopped early at step 30 of 87: none of the last 3 evaluations was better than the loss 1.0000 before the first step"
    assert result.message is not None
    assert result.message.startswith(told)
    # What others read beside the checkpoints knows it, too.
    (line,) = (tmp_path / "storage/metrics.jsonl").read_text().splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["step"]) == ("StoppedEarly", 30)
    assert f"Training {told}" in (tmp_path / "storage/report.html").read_text()
    # And whoever looks back at the attempt.
    storage = DirectoryStorage(tmp_path / "storage")
    (attempt,) = kept_runs(storage)["training"]
    assert attempt.files.keys() == {"metrics.jsonl", "report.html"}
    end = life_of(storage, attempt, "driver").end
    assert end is not None
    assert (end.outcome, end.reason, end.exit_code, end.message) == ("Done", "StoppedEarly", 0, result.message)
    assert b"".join(pieces(storage, attempt.logs["driver"])).decode() == done.stdout + done.stderr
