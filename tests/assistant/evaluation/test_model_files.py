"""Models that are looked at before they are loaded."""

import json
import shutil
from pathlib import Path

import pytest
from tests.assistant.evaluation.small_benchmarks import base_model

from finetune_api.errors import InvalidModel
from finetune_assistant.evaluation.model_files import model_files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def test_a_digest_is_of_the_content_and_not_of_the_place(whole: Path, model: Path) -> None:
    found = model_files(str(model))
    assert found.digest == model_files(str(whole)).digest
    assert (found.folder, found.run_folder) == (model, None)
    (model / "tokenizer.json").write_text(json.dumps({**json.loads((model / "tokenizer.json").read_text()), "version": "1.0", "note": 1}))
    assert model_files(str(model)).digest != found.digest


def test_a_model_that_is_half_there_is_refused_with_its_file(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InvalidModel, match=r"model\.safetensors is damaged or cut off"):
        model_files(str(model))
    weights.unlink()
    with pytest.raises(InvalidModel, match="has no weights"):
        model_files(str(model))
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(InvalidModel, match="lacks model-00001-of-00002"):
        model_files(str(model))
    (model / "model.safetensors.index.json").write_text("{")
    with pytest.raises(InvalidModel, match=r"index\.json is damaged .*download it again"):
        model_files(str(model))


def test_a_model_without_a_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(InvalidModel, match="has no tokenizer"):
        model_files(str(model))
