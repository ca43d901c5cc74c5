"""finetune_trainer/training/plain_engine.py, where one process is enough to try it; test_engine.py has it beside ZeRO."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.architectures import gpt_bigcode, llama, random_rows, save_random

from finetune_api.errors import TrainingFailed
from finetune_api.finetunejob import Optimizer, Training
from finetune_trainer.model.build import build_model
from finetune_trainer.training.engine import DTYPES, Piece
from finetune_trainer.training.plain_engine import PlainEngine


def model(folder: Path, precision: str = "fp32") -> Any:
    return build_model(folder, initialization="pretrained", seed=1, dropout=0.0, vocabulary_size=0, dtype=DTYPES[precision], reads=True)


def engine(built: Any) -> PlainEngine:
    return PlainEngine(built, Training(optimizer=Optimizer(gradient_clipping=0.5)))


def step(trained: PlainEngine) -> float:
    rows = random_rows(3, seed=trained.step)
    return trained.train_step(rows, num_supervised=sum(row.num_supervised for row in rows), learning_rate=1e-2).loss


def copies(trained: PlainEngine) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    def key(piece: Piece) -> tuple[str, str]:
        return piece.kind, piece.name

    return {key(piece): piece.tensor.numpy().copy() for piece in trained.local_state()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(llama(), tmp_path_factory.mktemp("plain") / "llama")


def test_what_is_frozen_stays_and_is_a_constant(folder: Path) -> None:
    """As an adapter's base is: no moments, no master, and its values whole for whoever saves the weights."""
    built = model(folder)
    for name, parameter in built.named_parameters():
        parameter.requires_grad_("layers.1." in name)
    before = {name: parameter.detach().clone() for name, parameter in built.named_parameters()}
    trained = engine(built)
    losses = [step(trained) for _ in range(3)]
    assert {name for _, name in copies(trained)} == trained.shapes.keys() == {name for name in before if "layers.1." in name}
    assert trained.constants.keys() == before.keys() - trained.shapes.keys()
    for name, parameter in built.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in trained.constants), name
    assert len(set(losses)) == 3


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(folder: Path) -> None:
    trained = engine(model(folder))
    step(trained)
    state = copies(trained)
    state["master", "model.norm.weight"][:] = np.inf
    trained.load_local_state(lambda kind, name, start, stop: state[kind, name], step=1)
    with pytest.raises(TrainingFailed, match=r"step 2: .*learningRate"):
        step(trained)
    assert trained.step == 1
    for key, values in copies(trained).items():
        np.testing.assert_array_equal(values, state[key])
    state["master", "model.norm.weight"][:] = 1.0
    trained.load_local_state(lambda kind, name, start, stop: state[kind, name], step=1)
    other = engine(model(folder))
    other.load_local_state(lambda kind, name, start, stop: state[kind, name], step=1)
    assert step(trained) == step(other), "no gradient of the refused step is left"


def test_masters_keep_what_bf16_loses(folder: Path) -> None:
    """Many updates, each too small for a weight in bf16, add up."""
    trained = engine(model(folder, "bf16"))
    before = copies(trained)
    rows = random_rows(3, seed=1)
    for _ in range(3):
        trained.train_step(rows, num_supervised=sum(row.num_supervised for row in rows), learning_rate=1e-6)
    moved = copies(trained)["master", "model.embed_tokens.weight"] - before["master", "model.embed_tokens.weight"]
    assert 0 < np.abs(moved).max() < 1e-5
    weights = trained.logits(rows[0])
    assert weights.dtype == torch.float32


def test_what_no_token_reached_counts_as_a_gradient_of_zero(folder: Path) -> None:
    """An expert's weights, for one. torch's AdamW would pass them over; under ZeRO their moments decay."""
    built = model(folder)
    built.unreached = torch.nn.Parameter(torch.ones(3))
    trained = engine(built)
    state = copies(trained)
    state["exp_avg", "unreached"][:] = 1.0
    trained.load_local_state(lambda kind, name, start, stop: state[kind, name], step=0)
    step(trained)
    np.testing.assert_allclose(copies(trained)["exp_avg", "unreached"], 0.9)


def test_tied_weights_are_one(tmp_path: Path) -> None:
    trained = engine(model(save_random(gpt_bigcode(), tmp_path / "gpt_bigcode")))
    assert "lm_head.weight" not in trained.shapes
    assert step(trained) != step(trained)


def test_neither_deepspeed_nor_a_compiler_nor_a_process_group_is_needed(folder: Path) -> None:
    script = f"""
import sys
sys.modules["deepspeed"] = None
from pathlib import Path
from tests.trainer.training.test_plain_engine import engine, model, step
import torch.distributed as dist
assert step(engine(model(Path({str(folder)!r})))) > 0
assert not dist.is_initialized()
assert "finetune_trainer.training.compiled_ops" not in sys.modules
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script], cwd=root, env={"PATH": "", "OMP_NUM_THREADS": "1"}, check=True)
