"""Families from end to end on two ranks: tried, trained under ZeRO-3, exported, and loaded by plain Transformers with equal logits.

Each against plain PyTorch, one dialogue at a time: the first step's loss and gradient norm.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from tests.exported_models import TINY, training_run
from tests.trainer.architectures import packed, save_random
from tests.trainer.distributed import run_distributed
from tests.trainer.families import PACKED, UNPACKED

from finetune_api.finetunejob import Optimizer, Training, ZeroOptimization
from finetune_trainer.model.build import build_model
from finetune_trainer.model.micro_batch import MicroBatch, single_dialogues
from finetune_trainer.model.trial import choose_method
from finetune_trainer.publishing.export import export
from finetune_trainer.training.engine import Engine
from finetune_trainer.training.engine_snapshot import constant_pieces
from finetune_trainer.training.zero_engine import ZeroEngine

pytestmark = pytest.mark.training

# With what each has that others lack: see tests/trainer/families.py.
FAMILIES = {
    "deepseek": PACKED["a router's correction, a buffer that is saved, and other head widths for values (DeepSeek-V3)"],
    "gemma4": PACKED["layer_scalar, a buffer that is saved (Gemma 4)"],
    "ernie": PACKED["frozen parameters (ERNIE 4.5 MoE)"],
    "gpt_oss": PACKED["learned sinks and a window (GPT-OSS)"],
    "gemma2": PACKED["soft-caps and a window (Gemma 2)"],
    "cohere": PACKED["logits multiplied (Cohere)"],
    "granite": PACKED["logits divided (Granite)"],
    "llama4": PACKED["chunked attention (Llama 4)"],
    "phi3": PACKED["frequencies by the longest dialogue (Phi-3 128k)"],
    "mamba": UNPACKED["state space (Mamba)"],
    "stablelm": UNPACKED["boundaries lost (StableLM)"],
    "qwen3_next": UNPACKED["linear attention (Qwen3-Next)"],
}
VOCABULARY = json.loads((TINY / "config.json").read_text())["vocab_size"]
# One dialogue on one rank, five on the other: unpacked, the first makes four empty calls.
ROWS = [
    packed([3, 5, 7, 11, 2, 4, 6, 8, 10, 12, 14]),
    packed([9, 33], [2, 4, 6], [33, 40, 60, 21, 9, 10, 11], [5, 6], [7, 8, 9, 10], supervised=(True, True, False, True, True)),
]
SUPERVISED = sum(row.num_supervised for row in ROWS)


def base_folder(config: Any, folder: Path) -> Path:
    """A base model as people have them: a tokenizer, real weights and buffers that are not what the architecture begins with."""
    shutil.copytree(TINY, folder)
    changes = {"vocab_size": VOCABULARY}
    if hasattr(config, "vocab_size_per_layer_input"):
        changes["vocab_size_per_layer_input"] = VOCABULARY
    save_random(type(config).from_dict(config.to_dict() | changes), folder, scale=2.0)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    computed = {f"{prefix}.{name}" for prefix, part in model.named_modules() for name in part._non_persistent_buffers_set}
    torch.manual_seed(5)
    saved = [*(one for name, one in model.named_buffers() if name not in computed), *model.parameters()]
    with torch.no_grad():
        for one in saved:
            if not one.requires_grad or one.dim() < 2:
                one.add_(0.2 * torch.randn_like(one))
    model.save_pretrained(folder)
    return folder


class Gathered:
    """An engine's masters and constants, whole, as a checkpoint gives them."""

    def __init__(self, engine: Engine) -> None:
        pieces = [(p.name, p.shape, p.start, p.stop, p.tensor.numpy().copy()) for p in engine.local_state() if p.kind == "master"]
        pieces += [(p.name, p.shape, p.start, p.stop, p.data) for p in constant_pieces(engine.constants)]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, pieces)
        self._values: dict[str, Any] = {}
        for name, shape, start, stop, values in (piece for one in everyone for piece in one):
            self._values.setdefault(name, np.full(shape, np.nan, np.float32)).reshape(-1)[start:stop] = values

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._values.items()}

    def expect(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """All of it is in memory."""

    def read(self, name: str, start: int, stop: int) -> Any:
        return self._values[name].reshape(-1)[start:stop]


def train_and_export(folders: dict[str, Path], exported: Path) -> dict[str, Any]:
    """Two steps of each family on this rank's row, then an export by rank 0."""
    rank, results = dist.get_rank(), {}
    for name, folder in folders.items():
        training = Training(
            micro_batch_size=1,
            deepspeed=ZeroOptimization(stage3_param_persistence_threshold=60),
            optimizer=Optimizer(gradient_clipping=1e6, epsilon=1e-6),
        )
        method = choose_method(folder, training)
        settings = {
            "dropout": 0.0,
            "vocabulary_size": VOCABULARY + 4,
            "new_token_ids": range(VOCABULARY, VOCABULARY + 4),
            "dtype": torch.float32,
        }
        model = build_model(folder, initialization="pretrained", seed=1, reads=rank == 0, attention=method.attention, **settings)
        engine = ZeroEngine(model, training, precision="fp32", method=method)
        before = engine.logits(ROWS[1]).numpy()
        steps = [engine.train_step([ROWS[rank]], num_supervised=SUPERVISED, learning_rate=1e-3) for _ in range(2)]
        weights = Gathered(engine)
        if rank == 0:
            run = training_run(folder)
            export(run, weights, step=2, base=folder, folder=exported / name)
        results[name] = {
            "method": method,
            "before": before,
            "steps": [(step.loss, step.grad_norm) for step in steps],
            "evaluation": engine.evaluate([ROWS[rank]]),
            "logits": engine.logits(ROWS[1]).numpy(),
            "parameters": sum(np.prod(shape) for shape in engine.shapes.values()),
        }
    return results


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    torch.set_num_threads(1)
    return {name: base_folder(config, root / name) for name, config in FAMILIES.items()}


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    exported = tmp_path_factory.mktemp("exported")
    return exported, run_distributed(train_and_export, 2, folders, exported)


def plain(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def logits_alone(model: Any, row: MicroBatch) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return torch.cat([model(torch.tensor(one.input_ids)[None], use_cache=False).logits[0] for one in single_dialogues(row)]).numpy()


def first_step(folder: Path) -> tuple[float, float]:
    """Loss and gradient norm in plain PyTorch, with the rows that new tokens add."""
    model = plain(folder)
    model.resize_token_embeddings(VOCABULARY + 4, mean_resizing=False)
    with torch.no_grad():
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[VOCABULARY:] = table[:VOCABULARY].mean(dim=0)
    total = torch.zeros(())
    for one in (one for row in ROWS for one in single_dialogues(row)):
        logits = model(torch.tensor(one.input_ids)[None], use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(one.labels), reduction="sum")
    skeleton = transformers.AutoModelForCausalLM.from_config(model.config)
    trained = [model.get_parameter(name) for name, parameter in skeleton.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total / SUPERVISED, trained, allow_unused=True)
    return float(total.detach()) / SUPERVISED, float(torch.stack([one.norm() for one in gradients if one is not None]).norm())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_as_in_plain_pytorch(name: str, folders: dict[str, Path], trained: tuple[Path, list[dict[str, Any]]]) -> None:
    result = trained[1][0][name]
    np.testing.assert_allclose(result["steps"][0], first_step(folders[name]), rtol=2e-4)
    assert result["evaluation"][0] / result["evaluation"][1] < result["steps"][0][0], "two steps lower the loss"
    assert trained[1][1][name]["steps"] == result["steps"], "both ranks say the same"
    assert result["method"].packed == (FAMILIES[name] not in UNPACKED.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_rank_has_the_buffers_of_the_base_model(
    name: str, folders: dict[str, Path], trained: tuple[Path, list[dict[str, Any]]]
) -> None:
    expected = logits_alone(plain(folders[name]), ROWS[1])
    for rank in (0, 1):
        got = trained[1][rank][name]["before"][:, :VOCABULARY]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_family_has_the_logits_of_the_engine(name: str, trained: tuple[Path, list[dict[str, Any]]]) -> None:
    expected = trained[1][0][name]["logits"]
    got = logits_alone(plain(trained[0] / name), ROWS[1])
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(expected, trained[1][0][name]["before"], rtol=1e-3), "training changed them"
