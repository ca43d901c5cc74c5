"""Tiny base models, runs over them, and exported folders: what tests of export, card and chat share."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.finetunejob import FineTuneJob
from finetune_api.training_run import DataShape, Plan, SplitShape, TrainingRun, run_identity
from finetune_trainer.model.shape import read_shape
from finetune_trainer.preparation.prepare import vocabulary

TINY = Path(__file__).parent.parent / "examples" / "tiny"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": json.loads((TINY / "config.json").read_text())["vocab_size"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}


def base_folder(folder: Path, architecture: str) -> Path:
    """A base model without weights: config and tokenizer."""
    shutil.copytree(TINY, folder)
    if architecture == "llama":
        (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def training_run(base: Path, *, precision: str = "fp32", job: str = "demo", **spec: Any) -> TrainingRun:
    """A frozen run over `base`. `spec` are further keys of the job's spec."""
    value = {
        "metadata": {"name": job},
        "spec": {"model": {"name": str(base)}, "dataset": {"sources": [{"path": "./dialogues.jsonl"}]}, **spec},
    }
    parsed = FineTuneJob.model_validate(value)
    split = SplitShape(dialogues=160, segments=161, tokens=9000, supervised_tokens=4000, rows=28, squared_lengths=900000)
    return TrainingRun(
        job=parsed,
        identity=run_identity(parsed),
        model_revision="0" * 40,
        model_shape=read_shape(json.loads((base / "config.json").read_text()), source="config.json"),
        vocabulary=vocabulary(parsed.spec.template, base),
        data=DataShape(fingerprint="f" * 64, train=split),
        plan=Plan(
            device="cpu",
            precision=precision,  # type: ignore[arg-type]
            world_size=2,
            nodes=1,
            micro_batch_size=2,
            micro_steps=2,
            global_batch_size=8,
            max_sequence_length=256,
            tokens_per_step=2048,
            total_steps=12,
        ),
    )


def source_model(base: Path, *, rows: int, seed: int = 7) -> Any:
    """A random fp32 model of the base's architecture with `rows` rows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, vocab_size=rows), dtype=torch.float32)
    return model.eval()


def model_of_run(run: TrainingRun, base: Path, **others: Any) -> Any:
    """The model that a run's engine begins with, in fp32 and without dropout. `others`: further arguments of `build_model`."""
    import torch

    from finetune_trainer.model.build import build_model

    return build_model(
        base,
        initialization="pretrained",
        seed=run.job.spec.training.seed,
        dropout=0.0,
        vocabulary_size=run.vocabulary.size,
        new_token_ids=run.vocabulary.new_token_ids,
        dtype=torch.float32,
        **others,
    )


class ModelWeights:
    """The parameters of a model in memory, as a checkpoint would give them."""

    def __init__(self, model: Any) -> None:
        self._values = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        self.largest_read = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self._values.items()}

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """All of it is in memory."""

    def read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        self.largest_read = max(self.largest_read, stop - start)
        values: NDArray[np.float32] = self._values[name].reshape(-1)[start:stop]
        return values
