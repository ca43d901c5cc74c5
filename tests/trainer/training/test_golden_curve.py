"""The whole way from dialogues to losses, held to numbers that are written down: what changes them changes every run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.trainer import golden

from finetune_api.finetunejob import Optimizer, Training
from finetune_trainer.model.build import build_model
from finetune_trainer.training.plain_engine import PlainEngine

pytestmark = pytest.mark.training


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_the_golden_loss_curve(tmp_path: Path, micro_batch_size: int) -> None:
    torch.set_num_threads(1)
    model = build_model(
        golden.save_model(tmp_path / "model"),
        initialization="pretrained",
        seed=1,
        dropout=0.0,
        vocabulary_size=0,
        dtype=torch.float32,
        reads=True,
    )
    optimizer = Optimizer(weight_decay=0.1, gradient_clipping=0.5, epsilon=1e-6)
    losses = golden.curve(PlainEngine(model, Training(optimizer=optimizer)), 0, 1, micro_batch_size)
    np.testing.assert_allclose(losses, golden.LOSSES, rtol=1e-5)
