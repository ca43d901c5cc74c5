"""`finetune` whose ranks compute one loss that is no number: `python -m tests.reliability.with_nan run job.yaml ...`.

Ranks import the main module of who started them, and so find the step of theirs that this file puts in place of the product's.
FINETUNE_NAN holds step, rank and a file that is there once it has happened: it happens once.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

from finetune_cli.app import main
from finetune_trainer.training.training_rank import TrainingRank

NAN_ENV = "FINETUNE_NAN"
_right = TrainingRank.train


def _train(self: TrainingRank, step: int) -> None:
    at, rank, happened = os.environ[NAN_ENV].split(",")
    if step + 1 != int(at) or self.ranks.rank != int(rank) or Path(happened).exists():
        _right(self, step)
        return
    Path(happened).touch()
    from finetune_trainer.model.loss import LossModel

    right = LossModel.forward

    def forward(model: LossModel, **row: Any) -> Any:
        return right(model, **row) * math.nan

    LossModel.forward = forward  # type: ignore[method-assign]
    try:
        _right(self, step)
    finally:
        LossModel.forward = right  # type: ignore[method-assign]


if NAN_ENV in os.environ:  # who imports the name alone changes nothing
    TrainingRank.train = _train  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
