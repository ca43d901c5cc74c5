"""`finetune run` where all steps are done already: what follows training, and what a user does when that fails, without training again.

The checkpoints are written as a run would have left them, so none of this starts Ray.
"""

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.cli.conftest import Finetune
from tests.conftest import Tiny
from tests.exported_models import ModelWeights, base_folder, source_model
from tests.trainer.hub_server import HubServer

from finetune_api.jobfile import load_job
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.store import Piece
from finetune_trainer.model.resolve import check_folder
from finetune_trainer.preparation.prepare import prepare
from finetune_trainer.publishing.model_folder import read_exported
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets
from finetune_trainer.training.early_stopping import Evaluated, as_extra

LOSSES = {4: 1.0, 8: 2.0}  # of the checkpoints that the run left; step 8 is the last one
BEFORE = 0.5  # loss before the first step
VOCABULARY = 837  # of the tiny tokenizer with four control tokens


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ModelWeights]:
    base = base_folder(tmp_path_factory.mktemp("base") / "tiny", "llama")
    return {step: ModelWeights(source_model(base, rows=VOCABULARY, seed=step)) for step in LOSSES}


@pytest.fixture
def place(tmp_path: Path, tiny: Tiny, weights: dict[int, ModelWeights], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with job.yaml, its model, and in runs/demo the checkpoints of a run that was trained to the end."""
    monkeypatch.chdir(tmp_path)
    base_folder(tmp_path / "base", "llama")
    spec = {
        "model": {"name": "./base", "initialization": "random"},
        "dataset": {"sources": [{"path": "./rows.jsonl"}], "evaluation": {"fraction": 0.2}},
        "training": {"maxSteps": 8, "maxSequenceLength": 128, "microBatchSize": 1, "globalBatchSize": 8, "precision": "fp32"},
        "workers": {"device": "cpu", "gpusPerNode": 0, "workersPerNode": 2},
    }
    (tmp_path / "rows.jsonl").write_bytes(tiny.dialogues.read_bytes())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"kind": "FineTuneJob", "metadata": {"name": "demo"}, "spec": spec}))
    folder = RunFolder(tmp_path / "runs/demo")
    job = load_job(tmp_path / "job.yaml")
    model = check_folder(tmp_path / "base", job.spec.model)
    data = prepare(job, base=tmp_path, model_folder=model.folder, folder=folder.prepared, secrets=Secrets({})).data_shape
    inputs = {"data": data.fingerprint, "model": model.revision}
    for step in LOSSES:
        store = job_checkpoints(job, base=tmp_path, default=folder.storage, secrets=Secrets({})).claimed()
        part = store.write_part(step, 0, list(pieces(weights[step])))
        evaluations = [Evaluated(0, BEFORE), *(Evaluated(*one) for one in LOSSES.items() if one[0] <= step)]
        store.commit(step, [part], as_extra(step, evaluations) | {"seconds": 1.0, **inputs})
    return tmp_path


def pieces(weights: ModelWeights) -> Iterator[Piece]:
    for name, shape in weights.shapes.items():
        size = int(np.prod(shape))
        yield Piece(kind="master", name=name, shape=shape, start=0, stop=size, data=weights.read(name, 0, size))


def written(file: Path) -> tuple[int, int, int]:
    """Equal for a file that was not written again, however often it was read."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def kinds(out: str) -> list[str]:
    return [event["kind"] for event in events(out) if event["kind"] not in {"Notice", "StageAdvanced"}]


@pytest.mark.parametrize(("checkpoint", "step"), [("last", 8), ("best", 4)])
def test_the_last_or_the_best_checkpoint_is_published(finetune: Finetune, place: Path, checkpoint: str, step: int) -> None:
    code, out, _ = finetune("run", "job.yaml", "--json", publish__checkpoint=checkpoint, publish__directory__path="out")
    assert code == 0
    published, finished = events(out)[-2:]
    assert published["where"] == str(place / "out")
    assert (finished["step"], finished["evaluation_loss"]) == (step, LOSSES[step])
    assert read_exported(place / "out").step == step
    assert f"Published to {place}/out" in Path(finished["report"]).read_text()


def test_a_run_whose_checkpoint_says_that_it_ended_early_trains_no_further(finetune: Finetune, place: Path) -> None:
    """As after a kill between that checkpoint and what follows: no worker is needed to see that nothing is left to train."""
    shutil.rmtree(place / "runs/demo/storage/checkpoints/step-00000008")
    stops = {"evaluation__earlyStopping__patience": 1, "publish__directory__path": "out"}
    for _ in range(2):
        code, out, _ = finetune("run", "job.yaml", "--json", **stops)
        assert code == 0
        (early,) = (event for event in events(out) if event["kind"] == "StoppedEarly")
        assert (early["step"], early["total_steps"], early["loss"], early["best_step"], early["best_loss"]) == (4, 8, LOSSES[4], 0, BEFORE)
        assert early["message"].startswith(
            "stopped early at step 4 of 8: the last evaluation wasn't better than the loss 0.5000 before the first step"
        )
        assert (events(out)[-1]["kind"], events(out)[-1]["step"]) == ("Finished", 4)
    assert [json.loads(line)["kind"] for line in (place / "runs/demo/metrics.jsonl").read_text().splitlines()] == ["StoppedEarly"]
    assert read_exported(place / "out").step == 4
    assert "Training stopped early at step 4 of 8: the last evaluation" in (place / "out/README.md").read_text()
    assert "Training stopped early at step 4 of 8: the last evaluation" in (place / "runs/demo/report.html").read_text()


def test_the_model_of_a_step_that_was_trained_again_is_exported_again(
    finetune: Finetune, place: Path, weights: dict[int, ModelWeights]
) -> None:
    """As when somebody deleted the storage of a run and kept its model."""
    assert finetune("run", "job.yaml")[0] == 0
    former = (place / "runs/demo/model/model.safetensors").read_bytes()
    default = RunFolder(place / "runs/demo").storage
    store = job_checkpoints(load_job(place / "job.yaml"), base=place, default=default, secrets=Secrets({})).claimed()
    extra = dict(store.open(8).extra)
    shutil.rmtree(default / "checkpoints/step-00000008")
    store.commit(8, [store.write_part(8, 0, list(pieces(weights[4])))], extra)
    assert finetune("run", "job.yaml")[0] == 0
    assert (place / "runs/demo/model/model.safetensors").read_bytes() != former
    assert read_exported(place / "runs/demo/model").checkpoint == store.open(8).digest


def test_a_gate_keeps_the_model_and_says_why(finetune: Finetune, place: Path) -> None:
    gate = {"publish__directory__path": "out", "publish__gate__evaluationLoss__max": 1.5}
    code, _, err = finetune("run", "job.yaml", **gate)
    assert code == 1
    assert "not published: spec.publish.gate.evaluationLoss.max=1.5, and the evaluation loss of step 8 is 2.0000" in err
    assert f"the model is kept in {place}/runs/demo/model. Ease the gate, or train longer in a new run (--run-folder)" in err
    assert not (place / "out").exists()
    assert read_exported(place / "runs/demo/model").step == 8
    # The best checkpoint passes; nothing is trained for it.
    code, out, _ = finetune("run", "job.yaml", "--json", **gate, publish__checkpoint="best")
    assert code == 0
    assert "StepDone" not in kinds(out)
    assert read_exported(place / "out").step == 4


def test_what_fails_after_training_is_repeated_without_it(finetune: Finetune, place: Path) -> None:
    """A publication that fails leaves the export and a report of the failure; the same command only publishes."""
    (place / "shared").write_text("a file, where a folder is wanted")
    code, _, err = finetune("run", "job.yaml", publish__directory__path="shared/out")
    assert code == 1
    assert f"{place}/shared/out can't be written: File exists; the exported model is kept in {place}/runs/demo/model" in err
    exported = written(place / "runs/demo/model/model.safetensors")
    assert '<span class="chip failed">failed</span>' in (place / "runs/demo/report.html").read_text()
    (place / "shared").unlink()
    code, out, _ = finetune("run", "job.yaml", "--json", publish__directory__path="shared/out")
    assert code == 0
    assert [event["stage"] for event in events(out) if event["kind"] == "StageStarted"] == ["publication"]
    assert written(place / "runs/demo/model/model.safetensors") == exported


def test_a_full_disk_at_the_export_is_told_and_the_same_command_goes_on(finetune: Finetune, place: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))  # the weights have 260 kB
    try:
        code, _, err = finetune("run", "job.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert f"can't be exported to {place}/runs/demo/model: File too large; make room" in err
    assert not (place / "runs/demo/model").exists()
    assert finetune("run", "job.yaml")[0] == 0


def test_folder_and_storage_belong_to_one_run(finetune: Finetune, place: Path) -> None:
    assert finetune("run", "job.yaml")[0] == 0
    code, _, err = finetune("run", "job.yaml", training__seed=7, template__name="alpaca")
    assert code == 2
    assert f"run folder {place}/runs/demo belongs to another run of job 'demo': spec.template.name, spec.training.seed differs" in err
    assert "use --run-folder for a new one, or delete the folder" in err
    storage = {"checkpoints__storage": "runs/demo/storage"}
    code, _, err = finetune("run", "job.yaml", "--run-folder", "other", training__seed=7, **storage)
    assert code == 2
    assert f"spec.checkpoints.storage={place}/runs/demo/storage belongs to job 'demo'" in err
    assert "Give this job a storage of its own, or delete what is there" in err
    # The same job in another folder goes on with what the storage holds.
    code, out, _ = finetune("run", "job.yaml", "--run-folder", "other", "--json", **storage)
    assert (code, events(out)[-1]["step"]) == (0, 8)
    # But not with other data under the same name: the checkpoints were made from what was there.
    rows = (place / "rows.jsonl").read_text().splitlines(keepends=True)
    (place / "rows.jsonl").write_text("".join(rows[:-3]))
    code, _, err = finetune("run", "job.yaml", "--run-folder", "third", **storage)
    assert code == 2
    assert "was made from another data" in err
    assert "give the run a storage of its own" in err


def test_changed_generation_settings_reach_the_exported_model(finetune: Finetune, place: Path) -> None:
    assert finetune("run", "job.yaml")[0] == 0
    weights = written(place / "runs/demo/model/model.safetensors")
    (place / "runs/demo/model/README.md").write_text("my own card")
    assert finetune("run", "job.yaml", generation__temperature=0.9)[0] == 0
    assert json.loads((place / "runs/demo/model/generation_config.json").read_text())["temperature"] == 0.9
    assert written(place / "runs/demo/model/model.safetensors") == weights
    assert (place / "runs/demo/model/README.md").read_text() == "my own card"


def test_the_kept_job_file_is_a_whole_job(finetune: Finetune, place: Path) -> None:
    assert finetune("run", "job.yaml")[0] == 0
    assert load_job(place / "runs/demo/job.yaml") == load_job(place / "job.yaml")
    assert (place / "runs/demo/job.yaml").read_text().startswith("apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\n")


def test_changed_data_is_another_run(finetune: Finetune, place: Path) -> None:
    assert finetune("run", "job.yaml")[0] == 0
    rows = place / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    code, _, err = finetune("run", "job.yaml")
    assert code == 2
    assert "the data has changed since this run began" in err
    assert "put it back, or begin a new run with --run-folder" in err


@pytest.mark.parametrize("damage", ["altered", "truncated", "absent"])
def test_a_damaged_checkpoint_is_named_by_export_and_the_older_one_is_left(finetune: Finetune, place: Path, damage: str) -> None:
    assert finetune("run", "job.yaml")[0] == 0
    (part,) = (place / "runs/demo/storage/checkpoints/step-00000008").rglob("rank-*.bin")
    content = bytearray(part.read_bytes())
    if damage == "altered":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    elif damage == "truncated":
        part.write_bytes(content[:-1])
    else:
        part.unlink()
    code, _, err = finetune("export", "runs/demo", "--step", 8, "--output", "eight")
    assert code == 1
    assert "step 8" in err
    assert part.name in err
    assert not (place / "eight").exists()
    code, out, _ = finetune("export", "runs/demo", "--step", 4, "--output", "four")
    assert code == 0
    assert "step 4 is exported to four" in out


def test_a_damaged_best_checkpoint_is_told_and_nothing_is_trained_in_vain(finetune: Finetune, place: Path) -> None:
    (part,) = (place / "runs/demo/storage/checkpoints/step-00000004").rglob("rank-*.bin")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    code, _, err = finetune("run", "job.yaml", publish__checkpoint="best")
    assert code == 1
    assert "step 4" in err
    assert "publish the last one (publish.checkpoint: last), or begin a new run" in err
    assert finetune("run", "job.yaml", publish__checkpoint="last")[0] == 0
    assert read_exported(place / "runs/demo/model").step == 8


def test_a_run_is_published_to_the_hub_and_published_again_by_hand(
    finetune: Finetune, place: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    code, out, _ = finetune("run", "job.yaml", "--json", publish__hub__repository="org/demo")
    assert code == 0
    published = events(out)[-2]
    assert (published["where"], published["revision"]) == ("org/demo", hub.repositories["org/demo"].branches["main"])
    assert hub.repositories["org/demo"].private
    folder, remote = place / "runs/demo/model", hub.files("org/demo", "main")
    for path in read_exported(folder).files:
        assert remote[path] == (folder / path).read_bytes()
    code, out, _ = finetune("publish", "runs/demo", "--json")
    assert code == 0
    assert json.loads(out)["sent"] == []
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    code, out, err = finetune("publish", "runs/demo", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "InvalidPublication"
    assert "may only read" in json.loads(out)["message"]
    assert "hf_read" not in out + err
