"""The model that is served: where it is found, what is refused, and the cache that a server gets."""

import json
import shutil
from pathlib import Path

import pytest
from tests.assistant.serving.chained_model import chained_run
from tests.assistant.tiny_models import TEMPLATE, saved_folder
from tests.cli.conftest import hub
from tests.trainer.hub_server import HubServer
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import InvalidInput, InvalidModel
from finetune_assistant.serving.served_model import ServedModel, as_hub_cache, served_model
from finetune_trainer.storage.protocol import Storage

__all__ = ["hub"]


def found(model: object, *, name: str | None = None, revision: str | None = None, storage: Storage | None = None) -> ServedModel:
    return served_model(str(model), revision=revision, name=name, open_storage=lambda _url: storage or MemoryStorage())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chained_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "model", tmp_path / "assistant"))


def test_a_run_folder_is_served_with_its_recorded_stops(run: Path) -> None:
    served = found(run)
    written = json.loads((run / "model/generation_config.json").read_text())["eos_token_id"]
    assert (served.name, served.folder, served.notes) == ("demo", run / "model", ())
    assert served.stop_ids == tuple(written)
    assert len(written) == 4


def test_a_server_finds_the_model_by_its_name_alone(run: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    served = found(run, name="org/assistant")
    with as_hub_cache(served) as (cache, folder):
        assert {path.name for path in folder.iterdir()} == {path.name for path in (run / "model").iterdir()}
        tokenizer = AutoTokenizer.from_pretrained("org/assistant", cache_dir=cache, local_files_only=True)
        assert tokenizer.chat_template == json.loads((run / "model/tokenizer_config.json").read_text())["chat_template"]
        generation = GenerationConfig.from_pretrained("org/assistant", cache_dir=cache, local_files_only=True)
        assert generation.eos_token_id == list(served.stop_ids)
        assert generation.temperature == 0.2
    assert not cache.exists()
    assert (run / "model/config.json").is_file()


def test_another_chat_model_gets_the_stops_of_its_template(tmp_path: Path) -> None:
    other = saved_folder(tmp_path / "other", chat_template=TEMPLATE)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    end = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>")
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": end + 1, "top_k": 7}))
    served = found(other)
    assert served.stop_ids == (end + 1, end)
    assert served.notes == (
        f"{other}: generation_config.json lacks tokens at which its template ends an answer; they are served as stops, too",
    )
    with as_hub_cache(served) as (_, folder):
        assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": [end + 1, end], "top_k": 7}
    assert json.loads((other / "generation_config.json").read_text())["eos_token_id"] == end + 1


def test_a_model_in_object_storage_is_fetched(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = MemoryStorage()
    for path in (run / "model").iterdir():
        storage.put_file(path.name, path)
    served = found("s3://bucket/assistant", storage=storage)
    assert served.name == "assistant"
    assert served.folder.is_relative_to(tmp_path / "cache/finetune/models")
    assert served.stop_ids == found(run).stop_ids


def test_a_model_of_the_hub_is_fetched_at_its_revision(run: Path, hub: HubServer) -> None:
    repository = hub.create("org/assistant", {path.name: path.read_bytes() for path in (run / "model").iterdir()})
    commit = repository.branches["main"]
    hub.create("org/base", {"config.json": b"{}"})
    served = found("org/assistant", revision=commit)
    assert (served.name, served.folder.name) == ("org/assistant", commit)
    assert served.stop_ids == found(run).stop_ids
    with pytest.raises(InvalidModel, match="no revision 'v2'"):
        found("org/assistant", revision="v2")
    with pytest.raises(InvalidModel, match=r"org/base \(main\) has no weights in safetensors"):
        found("org/base")


def cut(model: Path) -> None:
    weights = next(model.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])


def without_weights(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        path.unlink()


def with_other_roles(model: Path) -> None:
    """Trained with one order of control tokens, decoded with another."""
    record = json.loads((model / "dialogue_template.json").read_text())
    ids = record["tokenIds"]
    ids["<|user|>"], ids["<|assistant|>"] = ids["<|assistant|>"], ids["<|user|>"]
    (model / "dialogue_template.json").write_text(json.dumps(record))


def without_template(model: Path) -> None:
    (model / "dialogue_template.json").unlink()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cut off"),
        (without_weights, "has no weights"),
        (with_other_roles, "<|user|>"),
        (without_template, "has no chat template, by which a server would make a prompt of messages; fine-tune it with `finetune run`"),
        (lambda model: (model / "config.json").unlink(), "holds no model: it has no config.json"),
        (lambda model: (model / "generation_config.json").write_text("{"), "generation_config.json can't be read"),
        (lambda model: (model / "generation_config.json").write_text("[]"), "generation_config.json holds no JSON object"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(model: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(model)
    with pytest.raises(InvalidModel) as refused:
        found(model)
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-a", "a--b", "a..b", "a.", "", "../a", "a@main", "a:b.gguf"])
def test_a_name_that_requests_could_not_use_is_refused(run: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="--served-model-name"):
        found(run, name=name)
