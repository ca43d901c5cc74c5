"""Export: plain transformers loads what was exported, in a process that knows nothing of us."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.exported_models import ModelWeights, base_folder, source_model, training_run

from finetune_api.errors import InvalidModel, InvalidPublication, StorageFailed, TrainingFailed
from finetune_api.finetunejob import Generation
from finetune_trainer.data.dialogues import Message
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.publishing.export import CheckpointWeights, describe, export, generation_config
from finetune_trainer.publishing.model_folder import RECORD_NAME, digest_of_file, folder_files, read_exported
from finetune_trainer.publishing.safetensors_files import bfloat16, split, write_weights
from finetune_trainer.templates.registry import template_from_json
from finetune_trainer.templates.tokenizer import read_tokenizer

OLD_VOCABULARY = 833
IDS = [[5, 17, 300, 833, 836, 41, 7]]
MESSAGES = [{"role": "user", "content": "Hello, can you help me?"}, {"role": "assistant", "content": "Sure: a list."}]

# What a stranger does with the folder. Nothing of ours can be imported there (-I, another working directory).
STRANGER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
folder, ids, messages = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model(torch.tensor(ids)).logits.float().numpy().tolist()
generated = model.generate(torch.tensor(ids), max_new_tokens=2, do_sample=False)
masked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
print(json.dumps({
    "logits": logits,
    "dtype": str(model.dtype),
    "vocabulary": model.config.vocab_size,
    "modules": sorted(name for name in sys.modules if "finetune_" in name),
    "missing": sorted(report["missing_keys"]),
    "unexpected": sorted(report["unexpected_keys"]),
    "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    "eos": GenerationConfig.from_pretrained(folder).eos_token_id,
    "config_eos": model.config.eos_token_id,
    "tokenizer_eos": tokenizer.eos_token,
    "pad": tokenizer.pad_token,
    "ids": masked["input_ids"],
    "mask": masked["assistant_masks"],
    "encoded": tokenizer("def f(): 1234")["input_ids"],
    "prompt": tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True),
    "new": generated.shape[1] - len(ids[0]),
    "skipped": tokenizer.decode(masked["input_ids"], skip_special_tokens=True),
}))
"""


def stranger(folder: Path, cwd: Path) -> dict[str, Any]:
    command = [sys.executable, "-I", "-W", "ignore", "-c", STRANGER, str(folder), json.dumps(IDS), json.dumps(MESSAGES)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def in_bfloat16(base: Path, model: Any) -> Any:
    """The same weights as the engine computes with them: parameters in bfloat16, buffers such as rotary frequencies as they are."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base, vocab_size=OLD_VOCABULARY + 4)
    engine = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    engine.load_state_dict(model.state_dict())
    return engine


@pytest.mark.parametrize(
    ("architecture", "precision", "shard_bytes"),
    [pytest.param("gpt_bigcode", "fp32", 500_000, marks=pytest.mark.thorough), ("llama", "bf16", 5_000_000_000)],
)
def test_a_stranger_gets_the_logits_of_the_trained_model(architecture: str, precision: str, shard_bytes: int, tmp_path: Path) -> None:
    import torch

    base = base_folder(tmp_path / "base", architecture)
    model = source_model(base, rows=OLD_VOCABULARY + 4)
    folder = tmp_path / "model"
    export(training_run(base, precision=precision), ModelWeights(model), step=12, base=base, folder=folder, shard_bytes=shard_bytes)
    seen = stranger(folder, tmp_path)

    engine = model if precision == "fp32" else in_bfloat16(base, model)
    with torch.no_grad():
        logits = engine(torch.tensor(IDS)).logits.float().numpy()
    np.testing.assert_array_equal(np.array(seen["logits"], np.float32), logits)
    assert seen["dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision]
    assert seen["vocabulary"] == OLD_VOCABULARY + 4
    assert (seen["missing"], seen["unexpected"], seen["modules"]) == ([], [], [])
    assert seen["tied"] == (architecture == "gpt_bigcode")
    assert seen["new"] >= 1

    # In blog order: system 833, assistant 834, user 835, end 836; the base ends a text with 0.
    assert seen["eos"] == [836, 0, 835, 833]
    assert (seen["config_eos"], seen["tokenizer_eos"], seen["pad"]) == (836, "<|end|>", "<|endoftext|>")
    assert seen["encoded"] == read_tokenizer(base).tokenizer.encode("def f(): 1234").ids
    files = read_tokenizer(folder)
    template = template_from_json((folder / "dialogue_template.json").read_text())
    encoder = Encoder(files.tokenizer, template)
    assert seen["ids"] == encoder.encode_prompt([Message(**message) for message in MESSAGES], generation_prompt=False)  # type: ignore[arg-type]
    supervised = [token for token, learnt in zip(seen["ids"], seen["mask"], strict=True) if learnt]
    assert files.tokenizer.decode(supervised, skip_special_tokens=False) == "Sure: a list.<|end|>"
    assert seen["prompt"] == template.render([Message(**MESSAGES[0])], generation_prompt=True)  # type: ignore[arg-type]
    assert "<|" not in seen["skipped"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    base = base_folder(tmp_path_factory.mktemp("small") / "base", "llama")
    return base, source_model(base, rows=OLD_VOCABULARY + 4)


Exporting = Callable[..., Path]


@pytest.fixture
def exporting(small: tuple[Path, Any], tmp_path: Path) -> Exporting:
    def run_export(folder: str = "model", *, weights: Any = None, step: int = 3, job: str = "demo", **spec: Any) -> Path:
        base, model = small
        run = training_run(base, job=job, **spec)
        export(run, weights or ModelWeights(model), step=step, base=base, folder=tmp_path / folder)
        return tmp_path / folder

    return run_export


def test_rotary_positions_are_said_in_the_older_words_too(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "llama")
    config = json.loads((base / "config.json").read_text())
    del config["rope_theta"]
    (base / "config.json").write_text(json.dumps({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}}))
    model = source_model(base, rows=OLD_VOCABULARY + 4)
    export(training_run(base), ModelWeights(model), step=1, base=base, folder=tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (written["rope_theta"], written["rope_scaling"]) == (100_000.0, None)
    assert written["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}


def test_the_longest_answer_is_no_bound_of_the_server(exporting: Exporting) -> None:
    """vLLM takes max_new_tokens of generation_config.json as a bound that no request can raise."""
    folder = exporting(generation={"maxNewTokens": 99})
    assert "max_new_tokens" not in json.loads((folder / "generation_config.json").read_text())


def test_the_record_names_step_and_every_file(exporting: Exporting) -> None:
    folder = exporting(step=9)
    record = read_exported(folder)
    assert (record.job, record.step, record.dtype) == ("demo", 9, "float32")
    for path in folder_files(folder):
        assert record.files[path].sha256 == digest_of_file(folder / path).sha256
    expected = {
        "config.json",
        "dialogue_template.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(record.files) == expected


def test_exporting_twice_gives_the_same_bytes(exporting: Exporting) -> None:
    first, second = exporting("a"), exporting("b")
    assert (first / RECORD_NAME).read_bytes() == (second / RECORD_NAME).read_bytes()


def test_a_full_disk_leaves_the_old_export(exporting: Exporting) -> None:
    folder = exporting(step=1)
    before = {path: (folder / path).read_bytes() for path in [*folder_files(folder), RECORD_NAME]}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageFailed, match=r"can't be exported to .*: File too large; make room"):
            exporting(step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: (folder / path).read_bytes() for path in [*folder_files(folder), RECORD_NAME]} == before
    assert [path.name for path in folder.parent.iterdir() if "model" in path.name] in (
        [folder.name],
        [".model.lock", folder.name],
        [folder.name, ".model.lock"],
    )


def test_a_folder_of_something_else_is_refused(exporting: Exporting, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    with pytest.raises(InvalidPublication, match="holds something that is no exported model; choose another folder"):
        exporting("thesis")
    exporting("model")
    with pytest.raises(InvalidPublication, match="holds the model of job demo"):
        exporting("model", job="other")


def test_weights_of_another_architecture_are_refused_before_they_are_written(exporting: Exporting, small: tuple[Path, Any]) -> None:
    weights = ModelWeights(small[1])
    weights._values["model.norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(InvalidModel, match=r"model\.norm\.weight is \(3,\) in the one and \(32,\) in the other \(1 differ\)"):
        exporting(weights=weights)
    assert weights.largest_read == 0


def test_weights_that_are_not_finite_are_refused(exporting: Exporting, small: tuple[Path, Any]) -> None:
    weights = ModelWeights(small[1])
    weights._values["model.norm.weight"] = np.full(32, np.nan, np.float32)
    with pytest.raises(TrainingFailed, match=r"model\.norm\.weight holds values that are not finite"):
        exporting(weights=weights)


def test_a_card_that_cannot_be_written_leaves_the_weights(exporting: Exporting) -> None:
    folder = exporting()
    (folder / "README.md").mkdir()
    with pytest.raises(StorageFailed, match="the weights there are whole"):
        describe(folder, {"README.md": "# Demo"})
    assert "model.safetensors" in read_exported(folder).files
    (folder / "README.md").rmdir()
    describe(folder, {"README.md": "# Demo"})
    assert read_exported(folder).files["README.md"] == digest_of_file(folder / "README.md")


def test_the_template_model_keeps_the_models_own_tokens(exporting: Exporting, small: tuple[Path, Any], tmp_path: Path) -> None:
    base = base_folder(tmp_path / "own", "llama")
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": source}))
    model = source_model(base, rows=OLD_VOCABULARY)
    export(training_run(base, template={"name": "model"}), ModelWeights(model), step=1, base=base, folder=tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"] == [0]
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["chat_template"] == source


def test_the_published_order_gives_the_user_the_second_id(exporting: Exporting) -> None:
    folder = exporting(template={"tokenOrder": "published"})
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [836, 0, 834, 833]


def test_a_checkpoint_is_read_through_its_reader(small: tuple[Path, Any], exporting: Exporting, tmp_path: Path) -> None:
    from finetune_trainer.checkpoints.store import CheckpointStore, Piece
    from finetune_trainer.storage.directory import DirectoryStorage

    weights = ModelWeights(small[1])
    store = CheckpointStore(DirectoryStorage(tmp_path / "storage"), identity="i", job="demo").claimed()

    def piece(name: str, shape: tuple[int, ...], rank: int) -> Piece:
        half = -(-int(np.prod(shape)) // 2)
        start, stop = (0, half) if rank == 0 else (half, int(np.prod(shape)))
        return Piece(kind="master", name=name, shape=shape, start=start, stop=stop, data=weights.read(name, start, stop))

    parts = [store.write_part(3, rank, [piece(name, shape, rank) for name, shape in weights.shapes.items()]) for rank in (0, 1)]
    with store.reader(store.commit(3, parts, {})) as reader:
        folder = exporting("from_checkpoint", weights=CheckpointWeights(reader))
    expected = exporting("from_memory")
    assert (folder / "model.safetensors").stat().st_size == (expected / "model.safetensors").stat().st_size
    from safetensors.numpy import load_file

    for name, value in load_file(folder / "model.safetensors").items():
        np.testing.assert_array_equal(value, load_file(expected / "model.safetensors")[name])


# The files themselves


def test_shards_are_cut_at_the_limit_and_their_index_is_whole(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32), "c": np.zeros((5, 5), np.float32)}
    shapes = {name: value.shape for name, value in values.items()}
    files = write_weights(tmp_path, shapes, lambda name, start, stop: values[name].reshape(-1)[start:stop], "float32", shard_bytes=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"] == {"total_parameters": 35, "total_size": 140}
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(load_file(tmp_path / file)[name], values[name])
    assert files == {
        path: digest for path in folder_files(tmp_path) if (digest := files[path]).sha256 == digest_of_file(tmp_path / path).sha256
    }


def test_no_tensor_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(name: str, start: int, stop: int) -> Any:
        asked.append(stop - start)
        return np.ones(stop - start, np.float32)

    write_weights(tmp_path, {"large": (3, 4 << 20)}, read, "bfloat16")
    assert max(asked) == 4 << 20
    assert sum(asked) == 3 * (4 << 20)


def test_a_single_tensor_beyond_the_limit_has_its_own_shard() -> None:
    assert split({"a": (1,), "b": (100,), "c": (1,)}, 2, 10) == [["a"], ["b"], ["c"]]
    assert split({"a": (5,)}, 2, 10) == [["a"]]


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    generator = np.random.default_rng(0)
    values = np.concatenate([generator.standard_normal(10_000), [0.0, -0.0, 1e-40, 3.3e38, -3.3e38, np.inf, -np.inf]]).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16(values), expected)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (Generation(), {"do_sample": True, "temperature": 0.2, "top_k": 50, "top_p": 0.95, "min_new_tokens": 1}),
        (Generation(temperature=0.0), {"do_sample": False}),
    ],
)
def test_generation_config(generation: Generation, expected: dict[str, Any]) -> None:
    config = generation_config(generation, {"eos_token_id": [1, 2], "pad_token_id": None})
    assert config.items() >= expected.items()
    assert config["eos_token_id"] == [1, 2]
    assert "pad_token_id" not in config
    assert ("temperature" in config) == config["do_sample"]
