"""`finetune export` and `finetune publish` on a run folder with two checkpoints."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET
from tests.exported_models import ModelWeights, base_folder, source_model, training_run

from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import TrainingRun
from finetune_cli import app
from finetune_cli.environment_storage import open_from_environment
from finetune_cli.export import export
from finetune_cli.publish import publish
from finetune_trainer.checkpoints.job_storage import job_checkpoints
from finetune_trainer.checkpoints.manifest import Manifest
from finetune_trainer.checkpoints.run_record import keep_run
from finetune_trainer.model.resolve import folder_revision, small_files
from finetune_trainer.publishing.model_folder import read_exported
from finetune_trainer.reporting.events import evaluation_done, to_json
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.directory import DirectoryStorage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `finetune run` leaves it before the export: run.json and checkpoints of steps 4 and 8."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "demo")
    base = base_folder(folder.path.parent / "tiny", "llama")
    dataset = {"sources": [{"path": "./dialogues.jsonl"}], "evaluation": {"fraction": 0.1}}
    run = training_run(base, model={"name": str(base), "initialization": "random"}, dataset=dataset)
    run = run.model_copy(update={"model_revision": folder_revision(base)})
    for step in (4, 8):
        _checkpoint(run, folder, step, ModelWeights(source_model(base, rows=837, seed=step)))
    folder.run_file.write_text(run.to_json())
    return folder.path


def _checkpoint(run: TrainingRun, folder: RunFolder, step: int, weights: ModelWeights) -> Manifest:
    from finetune_trainer.checkpoints.store import Piece

    def piece(name: str, shape: tuple[int, ...]) -> Piece:
        size = int(np.prod(shape))
        return Piece(kind="master", name=name, shape=shape, start=0, stop=size, data=weights.read(name, 0, size))

    store = job_checkpoints(run.job, base=folder.path, default=folder.storage, secrets=Secrets({})).claimed()
    return store.commit(step, [store.write_part(step, 0, [piece(*item) for item in weights.shapes.items()])], {})


@pytest.fixture
def address(trained: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same run's storage in a bucket, as workers leave it, and keys in the environment."""
    for name, value in (("AWS_ENDPOINT_URL", s3.endpoint), ("AWS_ACCESS_KEY_ID", s3.access_key), ("AWS_SECRET_ACCESS_KEY", s3.secret_key)):
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    storage = open_from_environment(url, "RUN")
    for path in (trained / "storage").rglob("*"):
        if path.is_file():
            storage.put_file(str(path.relative_to(trained / "storage")), path)
    meta = trained.parent / "meta.json"
    meta.write_text(json.dumps({"statistics": {"sources": [{"name": "dialogues.jsonl", "dropped": {"too long": 3}}]}}))
    run = TrainingRun.from_json((trained / "run.json").read_bytes())
    keep_run(storage, run, small_files(trained.parent / "tiny"), meta)
    return url


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "demo"))


@pytest.fixture
def finetune(capsys: pytest.CaptureFixture[str]) -> Run:
    application = typer.Typer()
    application.command()(export)
    application.command()(publish)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.main([str(argument) for argument in arguments], application)
        return code, *capsys.readouterr()

    return run


def test_any_checkpoint_is_exported_with_its_card(finetune: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = finetune("export", folder, "--step", 4, "--output", tmp_path / "four", "--json")
    assert code == 0
    assert json.loads(out) == {"job": "demo", "step": 4, "model": str(tmp_path / "four")}
    record = read_exported(tmp_path / "four")
    assert record.step == 4
    assert {"README.md", "finetunejob.yaml", "model.safetensors"} <= record.files.keys()
    assert "This is step 4 of 12" in (tmp_path / "four" / "README.md").read_text()


def test_without_a_step_the_newest_goes_to_the_runs_model(finetune: Run, folder: Path) -> None:
    code, out, _ = finetune("export", folder)
    assert code == 0
    assert "step 8 is exported to" in out
    assert "finetune chat" in out
    assert read_exported(folder / "model").step == 8


def test_a_step_that_is_not_there_is_refused_with_those_that_are(finetune: Run, folder: Path) -> None:
    code, _, err = finetune("export", folder, "--step", 5)
    assert code == 2
    assert "no checkpoint of step 5; there are [4, 8]" in err


def test_a_checkpoint_is_exported_from_its_storage_alone(
    finetune: Run, trained: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job without publish on a cluster: no run folder, no base model, no job file; what the Secret holds is in the environment."""
    assert finetune("export", trained, "--step", 4, "--output", tmp_path / "here")[0] == 0
    hidden = (trained.parent / "tiny").rename(trained.parent / "tiny-hidden")
    try:
        monkeypatch.chdir(tmp_path)
        code, out, err = finetune("export", address, "--step", 4, "--json")
        assert code == 0, err
        assert json.loads(out) == {"job": "demo", "step": 4, "model": str(tmp_path / "demo")}
        there, here = read_exported(tmp_path / "demo"), read_exported(tmp_path / "here")
        assert {**there.files, "README.md": None} == {**here.files, "README.md": None}
        assert "3 of dialogues.jsonl (too long)" in (tmp_path / "demo" / "README.md").read_text()
        assert json.loads(finetune("export", address, "--output", tmp_path / "newest", "--json")[1])["step"] == 8
    finally:
        hidden.rename(trained.parent / "tiny")


def test_storage_in_a_directory_is_enough_as_well(finetune: Run, trained: Path, address: str, tmp_path: Path) -> None:
    storage = shutil.copytree(trained / "storage", tmp_path / "volume")
    keep_run(
        DirectoryStorage(storage),
        TrainingRun.from_json((trained / "run.json").read_bytes()),
        small_files(trained.parent / "tiny"),
        trained.parent / "meta.json",
    )
    code, out, err = finetune("export", storage, "--output", tmp_path / "model", "--json")
    assert code == 0, err
    assert json.loads(out)["step"] == 8


def test_an_address_without_a_run_is_refused(finetune: Run, address: str) -> None:
    code, _, err = finetune("export", f"{address}/elsewhere")
    assert code == 2
    assert f"RUN={address}/elsewhere holds no run: there is no run/run.json; give the prefix" in " ".join(err.split())
    code, _, err = finetune("export", f"s3://{BUCKET}-none/x")
    assert code == 2
    assert f"RUN=s3://{BUCKET}-none/x: there is no bucket" in " ".join(err.split())


def test_without_llama_cpp_the_exact_command_is_printed(finetune: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    code, _, err = finetune("export", folder, "--format", "gguf")
    assert code == 2
    place = folder / "model-gguf"
    command = f"`python convert_hf_to_gguf.py {folder}/model --outfile {place}/demo.gguf --outtype f32`"
    assert command in " ".join(err.split())
    assert (place / "Modelfile").read_text().startswith("FROM ./demo.gguf\nTEMPLATE ")
    assert read_exported(folder / "model").step == 8


def test_llama_cpps_converter_is_found_and_its_words_are_passed_on(
    finetune: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one runs in `make readers`."""
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("import sys; print('unknown pre-tokenizer'); sys.exit(1)")
    code, _, err = finetune("export", folder, "--format", "gguf")
    assert code == 1
    assert "llama.cpp's converter can't convert" in err
    assert "unknown pre-tokenizer; the model there is whole" in " ".join(err.split())
    script.write_text("import sys; open(sys.argv[3], 'w').write(' '.join([*sys.argv[1:3], *sys.argv[4:]]))")
    code, out, err = finetune("export", folder, "--format", "gguf", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert Path(made["gguf"]).read_text() == f"{folder}/model --outfile --outtype f32"
    assert sorted(path.name for path in Path(made["gguf"]).parent.iterdir()) == ["Modelfile", "demo.gguf"]


def test_a_folder_that_is_no_run_is_refused(finetune: Run, tmp_path: Path) -> None:
    for command in ("export", "publish"):
        code, out, _ = finetune(command, tmp_path, "--json")
        assert code == 2
        assert "is no run folder: it has no run.json" in json.loads(out)["message"]


def test_a_damaged_checkpoint_leaves_the_old_export(finetune: Run, folder: Path) -> None:
    finetune("export", folder, "--step", 4)
    [part] = folder.rglob("step-00000008/*/rank-*.bin")
    data = bytearray(part.read_bytes())
    data[1000] ^= 1
    part.write_bytes(data)
    code, _, err = finetune("export", folder, "--step", 8)
    assert code == 1
    assert "step 8 is damaged" in err
    assert read_exported(folder / "model").step == 4


def test_a_base_model_that_has_changed_since_is_refused(finetune: Run, folder: Path) -> None:
    run = TrainingRun.from_json((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(run.model_copy(update={"model_revision": "sha256:before"}).to_json())
    code, _, err = finetune("export", folder)
    assert code == 2
    assert f"is no longer the one of this run: it was sha256:before, it is {run.model_revision}; put the old one back" in err
    assert not (folder / "model").exists()


def test_the_jobs_gate_holds_for_the_jobs_own_place(finetune: Run, folder: Path, tmp_path: Path) -> None:
    run = TrainingRun.from_json((folder / "run.json").read_bytes())
    gated = {"publish": {"directory": {"path": str(tmp_path / "own")}, "gate": {"evaluationLoss": {"max": 1.5}}}}
    spec = run.job.spec.model_dump(mode="json", by_alias=True, exclude_none=True) | gated
    job = FineTuneJob.model_validate({"metadata": {"name": "demo"}, "spec": spec})
    (folder / "run.json").write_text(run.model_copy(update={"job": job}).to_json())
    measured = [evaluation_done(step=number, epoch=1.0, loss=loss) for number, loss in ((4, 1.0), (8, 2.0))]
    (folder / "metrics.jsonl").write_text("".join(to_json(event) + "\n" for event in measured))
    finetune("export", folder)
    code, _, err = finetune("publish", folder)
    assert code == 1
    assert "not published: spec.publish.gate.evaluationLoss.max=1.5, and the evaluation loss of step 8 is 2.0000" in " ".join(err.split())
    assert not (tmp_path / "own").exists()
    assert finetune("publish", folder, "--directory", tmp_path / "elsewhere")[0] == 0
    assert finetune("publish", folder, "--force")[0] == 0
    finetune("export", folder, "--step", 4)
    assert finetune("publish", folder)[0] == 0
    assert read_exported(tmp_path / "own").step == 4


def test_an_exported_run_is_published_to_a_directory(finetune: Run, folder: Path, tmp_path: Path) -> None:
    finetune("export", folder)
    code, out, _ = finetune("publish", folder, "--directory", tmp_path / "shared", "--json")
    published = json.loads(out)
    assert code == 0
    assert published["url"] == (tmp_path / "shared").as_uri()
    assert read_exported(tmp_path / "shared").step == 8


def test_an_exported_run_is_published_to_a_bucket(finetune: Run, folder: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ENDPOINT_URL", s3.endpoint), ("AWS_ACCESS_KEY_ID", s3.access_key), ("AWS_SECRET_ACCESS_KEY", s3.secret_key)):
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    finetune("export", folder)
    code, out, err = finetune("publish", folder, "--storage", url, "--json")
    assert code == 0, err
    assert json.loads(out)["url"] == url
    code, out, _ = finetune("publish", folder, "--storage", url, "--json")
    assert (code, json.loads(out)["sent"]) == (0, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the job names no place to publish to; give --hub ORG/NAME, --storage URL or --directory DIR"),
        (["--hub", "org/x", "--directory", "y"], "--hub, --directory and --storage exclude each other"),
        (["--hub", "no-organisation"], "use org/name, for example ann/no-organisation"),
        (
            ["--hub", "me/my--model"],
            '--hub me/my--model: repository: "me/my--model" holds -- or .., which no name on the Hub may; write me/my-model',
        ),
        (["--directory", "s3://bucket/x"], "is an address, and no folder; use --storage for object storage"),
        (["--directory", "y", "--message", "m"], "are for the Hub"),
        (["--storage", "s3://bucket/x", "--tag", "v1"], "are for the Hub"),
        (["--storage", "models/x"], "--storage models/x is no address; use s3://bucket/prefix, gs:// or az://, or --directory DIR"),
        (["--hub", "org/x", "--tag", "-v"], '--hub org/x: tag: "-v" has the wrong form; use letters, digits'),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(finetune: Run, folder: Path, options: list[str], message: str) -> None:
    code, _, err = finetune("publish", folder, *options)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_run_without_an_export_says_how_to_make_one(finetune: Run, folder: Path, tmp_path: Path) -> None:
    code, _, err = finetune("publish", folder, "--directory", tmp_path / "shared")
    assert code == 2
    assert "export one with `finetune export`" in " ".join(err.split())
