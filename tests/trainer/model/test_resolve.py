"""finetune_trainer/model/resolve.py and shape.py"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.hub_server import Fault, HubServer
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import BaseModelSpec
from finetune_trainer.model.hub import ModelUnreachable
from finetune_trainer.model.resolve import ModelFiles, check_folder, resolve_model
from finetune_trainer.model.shape import read_shape
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.places import open_storage

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def safetensors(**shapes: list[int]) -> bytes:
    """A safetensors file of zeros in bf16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def files(config: dict[str, Any] | None = None) -> dict[str, bytes]:
    weights = safetensors(**{"model.embed_tokens.weight": [11, 8], "lm_head.weight": [11, 8], "model.norm.weight": [8]})
    return {
        "config.json": json.dumps(CONFIG if config is None else config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": weights,
        "pytorch_model.bin": b"never fetched",
        "onnx/model.safetensors": b"never fetched",
    }


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def spec(name: str = "./model", **changes: Any) -> BaseModelSpec:
    return BaseModelSpec(name=name, **changes)


def resolve(wanted: BaseModelSpec, base: Path, **changes: Any) -> ModelFiles:
    settings = {"cache": base / "cache", "secrets": Secrets({}), "storage_opener": open_storage, **changes}
    return resolve_model(wanted, base=base, **settings)


def test_a_directory_is_found_beside_the_job_file(tmp_path: Path) -> None:
    write(tmp_path / "model", files())
    found = resolve(spec(), tmp_path)
    assert found.folder == tmp_path / "model"
    assert found.shape.parameters == 11 * 8 + 8  # the tied head counts once
    assert (found.shape.hidden_size, found.shape.head_size, found.shape.key_value_heads) == (8, 2, 2)


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_revision_of_a_directory_is_its_content(tmp_path: Path, changed: str) -> None:
    write(tmp_path / "model", files())
    first = resolve(spec(), tmp_path).revision
    assert resolve(spec(), tmp_path).revision == first
    assert first.startswith("sha256:")
    path = tmp_path / "model" / changed
    data = path.read_bytes()
    path.write_bytes(data[:-1] + (b"\n" + b"}" if changed.endswith("json") else b"\1"))
    assert resolve(spec(), tmp_path).revision != first


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda contents: {key: data for key, data in contents.items() if key != name}


def with_file(name: str, data: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda contents: {**contents, name: data}


def with_config(**changes: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return with_file("config.json", json.dumps({**CONFIG, **changes}).encode())


INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("config.json"), r"config.json: no such file; a model folder needs config.json"),
        (with_file("config.json", b'{"vocab'), r"config.json can't be read: .*; download the model again"),
        (with_file("config.json", b"[]"), r"config.json holds no JSON object"),
        (without("tokenizer.json"), r"has no tokenizer.json; save its fast tokenizer there"),
        (without("model.safetensors"), r"no weights in safetensors; save it again with safetensors"),
        (lambda c: without("pytorch_model.bin")(without("model.safetensors")(c)), r"no weights in safetensors; download them, or set"),
        (with_file("model.safetensors", files()["model.safetensors"][:-3]), r"model.safetensors is damaged or cut off; download it again"),
        (with_file("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"), r"model.safetensors is damaged or cut off"),
        (with_file("model.safetensors", b""), r"model.safetensors is damaged or cut off"),
        (with_file("model.safetensors.index.json", INDEX), r"lacks model-00001-of-00002.safetensors, model-00002-of-00002.safetensors"),
        (with_config(architectures=["T5ForConditionalGeneration"]), r"T5ForConditionalGeneration is no decoder-only language model"),
        (with_config(architectures=None), r"names no architecture"),
        (with_config(is_encoder_decoder=True), r"is no decoder-only language model"),
        (with_config(auto_map={"AutoModel": "x.Y"}), r"needs Python code of the model's own, which is never run"),
        (with_config(quantization_config={"bits": 4}), r"the weights are quantized"),
        (with_config(vocab_size=0), r"vocab_size must be a whole number above 0, and it says 0"),
        (with_config(hidden_size=None), r"hidden_size must be a whole number above 0, and it has none"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], message: str) -> None:
    write(tmp_path / "model", change(files()))
    with pytest.raises(InvalidModel, match=message):
        resolve(spec(), tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"model ./model: \S+/model is no directory"):
        resolve(spec(), tmp_path)


def test_random_weights_need_no_files(tmp_path: Path) -> None:
    write(tmp_path / "model", without("model.safetensors")(files()))
    shape = resolve(spec(initialization="random"), tmp_path).shape
    layer = 8 * (8 + 8 + 4 + 4) + 3 * 8 * 12 + 2 * 8
    assert shape.parameters == 11 * 8 + 2 * layer + 8


def test_a_planned_shape_must_be_the_models(tmp_path: Path) -> None:
    write(tmp_path / "model", files())
    shape = resolve(spec(), tmp_path).shape
    assert check_folder(tmp_path / "model", spec(shape=shape)).shape == shape
    with pytest.raises(InvalidModel, match=r"spec.model.shape is not this model's: layers 3 \(the model has 2\)"):
        check_folder(tmp_path / "model", spec(shape=shape.model_copy(update={"layers": 3})))


GPT_BIGCODE = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "model_type": "gpt_bigcode",
    "vocab_size": 49152,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_layer": 40,
    "n_positions": 8192,
    "multi_query": True,
}


TINY = {"n_embd": 12, "n_head": 3, "n_layer": 2, "n_positions": 16, "vocab_size": 30}


def test_the_shape_of_starcoder() -> None:
    shape = read_shape(GPT_BIGCODE, source="config.json")
    assert shape.parameters == 15_517_456_384
    assert (shape.key_value_heads, shape.head_size, shape.positions) == (1, 128, 8192)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        {**CONFIG, "model_type": "mistral", "architectures": ["MistralForCausalLM"]},
        {**CONFIG, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {**GPT_BIGCODE, **TINY, "n_inner": 20},
        {**GPT_BIGCODE, **TINY, "n_inner": None, "multi_query": False},
    ],
    ids=["llama", "mistral", "qwen2", "mqa", "mha"],
)
def test_counted_parameters_are_those_of_the_model(config: dict[str, Any], ties: bool) -> None:
    from finetune_trainer.model.counting import counted_shape

    config = {**config, "tie_word_embeddings": ties}
    shape = read_shape(config, source="config.json")
    assert shape == counted_shape(config, shape.architecture, "config.json")


def test_looking_at_a_model_needs_no_torch() -> None:
    code = "import sys, finetune_trainer.model.resolve; sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_object_storage_is_fetched_to_the_cache(tmp_path: Path) -> None:
    bucket = write(tmp_path / "bucket", files())
    opened = []

    def opener(url: str) -> Any:
        opened.append(url)
        return open_storage(str(bucket))

    wanted = spec("s3://bucket/models/base")
    found = resolve(wanted, tmp_path, storage_opener=opener)
    assert opened == ["s3://bucket/models/base"]
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert resolve(wanted, tmp_path, storage_opener=opener) == found
    (bucket / "tokenizer.json").write_bytes(b"[]")
    again = resolve(wanted, tmp_path, storage_opener=opener)
    assert again.revision != found.revision
    # Another job may be reading the former one.
    assert (found.folder / "tokenizer.json").read_bytes() == b"{}"
    assert (again.folder / "tokenizer.json").read_bytes() == b"[]"


class Ranges(MemoryStorage):
    """Storage that counts what is read."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__()
        self.objects = dict(contents)
        self.sent: dict[str, int] = {}

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        data = super().get(key, start, stop)
        self.sent[key] = self.sent.get(key, 0) + len(data)
        return data


LARGE = {"model.embed_tokens.weight": [4000, 500], "lm_head.weight": [4000, 500]}


def shards(*, header: int = 0) -> dict[str, bytes]:
    """A model of two files of 4 MB; `header`: so many more tensors without an element in each."""
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    empty = {f"model.layers.{number}.padding": [0] for number in range(header)}
    index = json.dumps({"weight_map": dict(zip(LARGE, names, strict=True))}).encode()
    weights = {file: safetensors(**{tensor: shape}, **empty) for file, (tensor, shape) in zip(names, LARGE.items(), strict=True)}
    config = {**CONFIG, "tie_word_embeddings": False}
    return {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}", "model.safetensors.index.json": index, **weights}


@pytest.mark.parametrize("header", [0, 3000], ids=["short", "longer than one read"])
def test_weights_in_object_storage_are_looked_at_where_they_are(tmp_path: Path, header: int) -> None:
    """The revision is that of the node that fetches all of it later."""
    storage = Ranges(shards(header=header))
    wanted = spec("s3://bucket/base")
    found = resolve(wanted, tmp_path, storage_opener=lambda _: storage, fetches_weights=False)
    assert found.shape.parameters == 2 * 4000 * 500
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert sum(storage.sent.values()) < 1_000_000
    whole = resolve(wanted, tmp_path, storage_opener=lambda _: storage)
    assert whole == found
    assert {path.name for path in whole.folder.iterdir()} == shards().keys()
    # What another node finds in a cache that they share is not fetched again, but for its edges.
    storage.sent.clear()
    assert resolve(wanted, tmp_path, storage_opener=lambda _: storage) == found
    assert storage.sent["model-00001-of-00002.safetensors"] == 2 * 2**20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model-00002-of-00002.safetensors"), r"memory lacks model-00002-of-00002.safetensors, which model.safetensors.index.json"),
        (with_file("model-00002-of-00002.safetensors", shards()["model-00002-of-00002.safetensors"][:-1]), r"00002.safetensors is damaged"),
        (
            with_file("model-00002-of-00002.safetensors", b"\xff" * 200_000),
            r"memory/model-00002-of-00002.safetensors is damaged or cut off",
        ),
        (with_file("model-00002-of-00002.safetensors", b""), r"00002.safetensors is damaged or cut off; download it again"),
        (without("tokenizer.json"), r"has no tokenizer.json"),
    ],
)
def test_what_is_wrong_with_weights_is_said_without_fetching_them(
    tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], message: str
) -> None:
    storage = Ranges(change(shards()))
    with pytest.raises(InvalidModel, match=message):
        resolve(spec("s3://bucket/base"), tmp_path, storage_opener=lambda _: storage, fetches_weights=False)
    assert sum(storage.sent.values()) < 1_000_000


def test_pickled_weights_in_object_storage_are_never_fetched(tmp_path: Path) -> None:
    storage = Ranges(without("model.safetensors")(files()))
    with pytest.raises(InvalidModel, match=r"memory has no weights in safetensors; save it again with safetensors"):
        resolve(spec("s3://bucket/base"), tmp_path, storage_opener=lambda _: storage, fetches_weights=False)
    assert "pytorch_model.bin" not in storage.sent


def test_object_storage_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    with pytest.raises(InvalidModel, match=r"model s3://bucket/typo holds no config.json"):
        resolve(spec("s3://bucket/typo"), tmp_path, storage_opener=lambda _: open_storage(str(tmp_path / "bucket")))


@pytest.fixture
def server() -> Iterator[HubServer]:
    server = HubServer()
    server.create("org/base", files())
    server.create("ann/private", files(), private=True)
    server.create("org/pickled", without("model.safetensors")(files()))
    yield server
    server.close()


def test_a_hub_model_is_fetched_at_its_commit(server: HubServer, tmp_path: Path) -> None:
    commit = server.repositories["org/base"].branches["main"]
    found = resolve(spec("org/base"), tmp_path, endpoint=server.url)
    assert found.revision == commit
    fetched = {str(path.relative_to(found.folder)) for path in found.folder.rglob("*") if not path.is_dir()}
    assert fetched == {"config.json", "tokenizer.json", "model.safetensors"}
    server.create("org/base", files({**CONFIG, "num_hidden_layers": 1}))  # the branch moves
    assert resolve(spec("org/base"), tmp_path, endpoint=server.url).shape.layers == 1


def test_weights_on_the_hub_are_looked_at_where_they_are(server: HubServer, tmp_path: Path) -> None:
    server.create("org/large", shards())
    server.create("org/cut", with_file("model-00002-of-00002.safetensors", shards()["model-00002-of-00002.safetensors"][:-200])(shards()))
    server.create("org/none", with_file("model.safetensors", b"\1\0\0\0\0\0\0\0{")(files()))
    found = resolve(spec("org/large"), tmp_path, endpoint=server.url, fetches_weights=False)
    assert found.shape.parameters == 2 * 4000 * 500
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    for damaged, file in (("org/cut", "model-00002-of-00002.safetensors"), ("org/none", "model.safetensors")):
        with pytest.raises(InvalidModel, match=f"model {damaged}: {file} is damaged or cut off; download it again") as caught:
            resolve(spec(damaged), tmp_path, endpoint=server.url, fetches_weights=False)
        assert not isinstance(caught.value, ModelUnreachable)
    assert server.sent_bytes < 1_000_000
    assert resolve(spec("org/large"), tmp_path, endpoint=server.url) == found


def test_a_hub_that_goes_away_while_headers_are_read_is_said(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault(r"GET .*/model\.safetensors$", "status", times=100))
    with pytest.raises(ModelUnreachable, match=r"model org/base: can't be fetched from the Hub"):
        resolve(spec("org/base"), tmp_path, endpoint=server.url, fetches_weights=False)


def test_a_private_model_takes_the_token(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"model ann/private: no such model on the Hub, or it is private; check the name, or set"):
        resolve(spec("ann/private"), tmp_path, endpoint=server.url)
    found = resolve(spec("ann/private"), tmp_path, endpoint=server.url, secrets=Secrets({"HF_TOKEN": "hf_read"}))
    assert found.shape.layers == 2


def test_the_users_login_is_used_for_models(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "login").write_text("hf_read")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login"))
    assert resolve(spec("ann/private"), tmp_path, endpoint=server.url, secrets=Secrets()).shape.layers == 2


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (spec("org/typo"), r"model org/typo: no such model on the Hub"),
        (spec("org/base", revision="v9"), r"model org/base: no revision 'v9'; give a branch, a tag or a full commit"),
        (spec("org/pickled"), r"model org/pickled \(main\) has no weights in safetensors"),
    ],
)
def test_what_the_hub_refuses_is_said(server: HubServer, tmp_path: Path, wanted: BaseModelSpec, message: str) -> None:
    with pytest.raises(InvalidModel, match=message) as caught:
        resolve(wanted, tmp_path, endpoint=server.url)
    assert not isinstance(caught.value, ModelUnreachable), "another try would say the same"
    assert not server.asked("resolve")


def test_a_hub_that_is_away_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreachable, match=r"model org/base: can't be fetched from the Hub .*; check the network, or give a folder"):
        resolve(spec("org/base"), tmp_path, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("token", [None, "hf_read"])
def test_a_gated_model_names_its_licence(server: HubServer, tmp_path: Path, token: str | None) -> None:
    """Whoever asks sees what is in it, and gets no file before the account has accepted."""
    repository = server.create("org/gated", files())
    repository.gated = True
    secrets = Secrets({"HF_TOKEN": token} if token else {})
    with pytest.raises(InvalidModel, match=r"accept its licence at .*/org/gated, then set spec.model.tokenSecret") as caught:
        resolve(spec("org/gated"), tmp_path, endpoint=server.url, secrets=secrets)
    assert not isinstance(caught.value, ModelUnreachable), "another try would say the same"
    if token:
        repository.accepted.add("ann")
        assert resolve(spec("org/gated"), tmp_path, endpoint=server.url, secrets=secrets).shape.layers == 2
