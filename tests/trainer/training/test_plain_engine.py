"""finetune_trainer/training/plain_engine.py, where one process is enough to try it; test_engine.py has it beside ZeRO."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.architectures import EMPTY, gpt_bigcode, llama, random_rows, save_random

from finetune_api.errors import NonFiniteLoss
from finetune_api.finetunejob import Optimizer, Training
from finetune_trainer.model.build import build_model
from finetune_trainer.model.micro_batch import joined
from finetune_trainer.training.engine import DTYPES, NonFiniteStep, Piece
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
    with pytest.raises(NonFiniteLoss, match=r"step 2: loss nan"):
        step(trained)
    assert trained.step == 1
    for key, values in copies(trained).items():
        np.testing.assert_array_equal(values, state[key])
    state["master", "model.norm.weight"][:] = 1.0
    trained.load_local_state(lambda kind, name, start, stop: state[kind, name], step=1)
    other = engine(model(folder))
    other.load_local_state(lambda kind, name, start, stop: state[kind, name], step=1)
    assert step(trained) == step(other), "no gradient of the refused step is left"


def test_a_step_that_is_not_finite_says_what_each_micro_batch_lost(folder: Path) -> None:
    trained = engine(model(folder))
    state, token = copies(trained), 9
    state["master", "model.embed_tokens.weight"].reshape(trained.shapes["model.embed_tokens.weight"])[token] = np.nan
    trained.load_local_state(lambda kind, name, start, stop: state[kind, name], step=0)
    rows = [joined([[1, 2, 3], [4, 5]]), EMPTY, joined([[1, 2], [token, 4, 5]]), joined([[3, 2, 1]])]
    with pytest.raises(NonFiniteStep) as caught:
        trained.train_step(rows, num_supervised=7, learning_rate=1e-2)
    losses = caught.value.losses
    assert [bool(np.isfinite(loss)) for loss in losses] == [True, True, False, True]
    assert losses[1] == 0.0 < losses[0]


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


def test_which_layers_recompute_changes_no_bit_and_the_memory_as_planned(tmp_path: Path) -> None:
    """Of four layers none, two and all: what is kept for the backward pass falls in equal steps, but for what neighbours share."""
    config = llama()
    config.num_hidden_layers = 4
    folder = save_random(config, tmp_path / "llama")
    states, kept = [], []
    for every in (0, 2, 1):
        trained = PlainEngine(model(folder), Training(optimizer=Optimizer(gradient_clipping=0.5)), recompute_every=every)
        saved: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(partial(noted, saved), lambda tensor: tensor):
            row = random_rows(1, seed=9)[0]
            trained.train_step([row], num_supervised=row.num_supervised, learning_rate=1e-2)
        kept.append(sum(saved.values()))
        step(trained)
        states.append(copies(trained))
    assert all(np.array_equal(state[key], value) for state in states[1:] for key, value in states[0].items())
    assert kept[0] - kept[1] == pytest.approx(kept[1] - kept[2], rel=0.02)


def test_moments_in_eight_bits_go_on_bit_identically(tmp_path: Path) -> None:
    """From codes and scales as a checkpoint has them; of tensors with fewer than 4,096 elements moments are in fp32."""
    config = llama()
    config.intermediate_size = 160
    folder = save_random(config, tmp_path / "llama")
    settings = Training(optimizer=Optimizer(name="adamw8bit", gradient_clipping=0.5))
    first, second = (PlainEngine(model(folder), settings) for _ in range(2))
    before = [step(first) for _ in range(3)]
    saved = copies(first)
    kinds = {kind: {name for one, name in saved if one == kind} for kind, _ in saved}
    assert kinds["exp_avg_codes"] == kinds["exp_avg_sq_scales"] == {name for name in kinds["master"] if ".mlp." in name}
    assert kinds["exp_avg"] == kinds["master"] - kinds["exp_avg_codes"]
    second.load_local_state(lambda kind, name, start, stop: saved[kind, name][start:stop], step=3)
    after = [step(first) for _ in range(3)]
    assert [step(second) for _ in range(3)] == after
    in_fp32 = engine(model(folder))
    np.testing.assert_allclose([*before, *after], [step(in_fp32) for _ in range(6)], rtol=0.02)


def noted(saved: dict[int, int], tensor: torch.Tensor) -> torch.Tensor:
    """The same, its memory written down."""
    storage = tensor.untyped_storage()
    saved[storage.data_ptr()] = storage.nbytes()
    return tensor


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
