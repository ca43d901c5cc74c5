"""`finetune export` and `finetune publish` of a LoRA run: the whole model, or the adapter alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_export import Run, _checkpoint, finetune
from tests.exported_models import ModelWeights, base_folder, source_model, training_run

from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.run_record import keep_run
from finetune_trainer.model.resolve import folder_revision, small_files
from finetune_trainer.publishing.model_folder import folder_files
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.storage.directory import DirectoryStorage

__all__ = ["finetune"]


class _Trained(ModelWeights):
    """What a LoRA run trains of a model."""

    def __init__(self, model: Any) -> None:
        self._values = {name: one.detach().numpy() for name, one in model.named_parameters() if one.requires_grad}
        self.largest_read = 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run as `finetune run` leaves it before the export, which publishes its adapter."""
    from finetune_trainer.model.merged import adapted_model

    folder = RunFolder(tmp_path_factory.mktemp("runs") / "demo")
    base = base_folder(folder.path.parent / "tiny", "llama")
    source_model(base, rows=833).save_pretrained(base)
    publish = {"merge": False, "directory": {"path": "published"}}
    run = training_run(base, training={"method": "lora"}, publish=publish)
    run = run.model_copy(update={"model_revision": folder_revision(base)})
    _checkpoint(run, folder, 4, _Trained(adapted_model(run, base).get_base_model()))
    folder.run_file.write_text(run.to_json())
    meta = folder.path.parent / "meta.json"
    meta.write_text("{}")
    keep_run(DirectoryStorage(folder.storage), run, small_files(base), meta)
    return folder.path


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "demo"))


def test_the_adapter_or_the_whole_model_is_exported_as_the_job_or_the_option_says(finetune: Run, folder: Path) -> None:
    code, out, err = finetune("export", folder)
    assert code == 0, err
    assert f"the adapter of step 4 is exported to {folder / 'adapter'}" in out
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(folder_files(folder / "adapter"))
    card = (folder / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "AutoPeftModelForCausalLM.from_pretrained" in card
    assert finetune("export", folder, "--merge")[0] == 0
    assert {"config.json", "model.safetensors"} <= set(folder_files(folder / "model"))
    assert "AutoModelForCausalLM.from_pretrained" in (folder / "model" / "README.md").read_text()
    assert "LoRA, rank 8, alpha 8" in (folder / "model" / "README.md").read_text()


def test_what_the_job_publishes_goes_out(finetune: Run, folder: Path, tmp_path: Path) -> None:
    assert finetune("publish", folder, "--directory", tmp_path / "early")[0] == 2
    finetune("export", folder)
    assert finetune("publish", folder, "--directory", tmp_path / "out")[0] == 0
    assert "adapter_model.safetensors" in folder_files(tmp_path / "out")


def test_an_adapter_is_exported_from_storage_alone_and_a_whole_model_with_its_base(finetune: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = finetune("export", folder / "storage", "--output", tmp_path / "alone", "--json")
    assert code == 0, err
    assert json.loads(out)["step"] == 4
    assert "adapter_model.safetensors" in folder_files(tmp_path / "alone")
    assert finetune("export", folder / "storage", "--merge", "--output", tmp_path / "whole")[0] == 0
    assert "model.safetensors" in folder_files(tmp_path / "whole")


def test_another_base_model_is_refused(finetune: Run, folder: Path) -> None:
    run = TrainingRun.from_json((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(run.model_copy(update={"model_revision": "sha256:before"}).to_json())
    for option in ("--merge", "--adapter"):
        code, _, err = finetune("export", folder, option)
        assert code == 2
        assert "is no longer the one of this run" in " ".join(err.split())


def test_what_cannot_be_had_is_refused(finetune: Run, folder: Path) -> None:
    code, _, err = finetune("export", folder, "--adapter", "--format", "gguf")
    assert code == 2
    assert "--format gguf needs a whole model; leave --adapter out" in " ".join(err.split())
    run = TrainingRun.from_json((folder / "run.json").read_bytes())
    full = training_run(Path(run.job.spec.model.name)).model_copy(update={"model_revision": run.model_revision})
    (folder / "run.json").write_text(full.to_json())
    code, _, err = finetune("export", folder, "--merge")
    assert code == 2
    assert "--merge is for LoRA runs, and this one trained all parameters; leave it out" in " ".join(err.split())
