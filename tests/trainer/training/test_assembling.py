"""finetune_trainer/training/assembling.py: which checkpoint is the best one; tests/cli/test_run.py makes ranks."""

import numpy as np
from tests.trainer.memory_storage import MemoryStorage

from finetune_trainer.checkpoints.store import CheckpointStore, Piece
from finetune_trainer.training.assembling import best_step
from finetune_trainer.training.early_stopping import EVALUATION_LOSS


def test_the_best_checkpoint_is_of_the_lowest_loss_and_damaged_ones_are_told() -> None:
    storage = MemoryStorage()
    store = CheckpointStore(storage, identity="a", job="j").claimed()
    for step, loss in enumerate((3.0, 1.0, 2.0, 2.0), start=1):
        piece = Piece(kind="master", name="w", shape=(4,), start=0, stop=4, data=np.zeros(4, dtype=np.float32))
        store.commit(step, [store.write_part(step, 0, [piece])], {EVALUATION_LOSS: loss})
    told: list[str] = []
    assert (best_step(store, told.append), told) == (2, [])
    (part,) = [key for key in storage.objects if "step-00000002" in key and key.endswith(".bin")]
    del storage.objects[part]
    assert best_step(store, told.append) == 3, "the earliest of equals"
    assert len(told) == 1
    assert "step 2 is damaged" in told[0]
