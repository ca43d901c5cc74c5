"""training/restoring.py: when nobody needs the weights of the base model, and what is told if the checkpoints go meanwhile."""

from typing import Any

import numpy as np
import pytest
from tests.exported_models import base_folder, training_run
from tests.trainer.distributed import run_distributed
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import StorageFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.checkpoints.store import CheckpointStore, Kind, Piece
from finetune_trainer.training.collectives import Ranks
from finetune_trainer.training.restoring import begins_with_weights, inputs_of, restore


class Untouched:
    """An engine that must not be asked for anything."""


def stored(run: TrainingRun, *kinds: Kind) -> CheckpointStore:
    """A store with one checkpoint that holds an element of each kind; none without kinds."""
    store = CheckpointStore(MemoryStorage(), identity=run.identity, job="demo").claimed()
    pieces = [
        Piece(kind=kind, name="bias" if kind == "constant" else "w", shape=(1,), start=0, stop=1, data=np.ones(1, np.float32))
        for kind in kinds
    ]
    if pieces:
        store.commit(1, [store.write_part(1, 0, pieces)], dict(inputs_of(run)))
    return store


def restored(run: TrainingRun, store: CheckpointStore, ranks: Ranks, *, weights: bool) -> str | None:
    """What it raises, if anything; None for a run that begins anew."""
    engine: Any = Untouched()
    try:
        assert restore(engine, store, run, ranks, lambda event: None, lambda sign: None, weights=weights) is None
    except StorageFailed as error:
        return str(error)
    return None


def answers(full: TrainingRun, lora: TrainingRun) -> dict[str, Any]:
    """On each rank. Only the first one has anything in its memory: what it finds is what all go by."""
    ranks = Ranks()

    def found(run: TrainingRun, *kinds: Kind) -> bool:
        return begins_with_weights(run, stored(run, *kinds) if ranks.rank == 0 else stored(run), ranks)

    states: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
    damaged = stored(full, *states)
    for key in [key for key in damaged.storage.objects if key.endswith(".bin")]:  # type: ignore[attr-defined]
        damaged.storage.delete([key])
    return {
        "nothing": found(full),
        "whole": found(full, *states),
        "with constants": found(full, *states, "constant"),
        "adapters": found(lora, *states),
        "damaged": begins_with_weights(full, damaged, ranks),
        "anew": restored(full, stored(full), ranks, weights=True),
        "gone": restored(full, stored(full), ranks, weights=False),
        "all damaged": restored(full, damaged, ranks, weights=True),
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    base = base_folder(tmp_path_factory.mktemp("model") / "base", "llama")
    return run_distributed(answers, 2, training_run(base), training_run(base, training={"method": "lora"}))


@pytest.mark.parametrize(
    ("checkpoint", "weights"),
    [("nothing", True), ("whole", False), ("with constants", True), ("adapters", True), ("damaged", True)],
)
def test_weights_are_needed_unless_a_checkpoint_has_every_value(told: list[dict[str, Any]], checkpoint: str, weights: bool) -> None:
    assert [rank[checkpoint] for rank in told] == [weights, weights]


def test_an_engine_without_weights_never_begins_anew(told: list[dict[str, Any]]) -> None:
    for rank in told:
        assert rank["anew"] is None
        assert "were deleted while this attempt began" in rank["gone"]
        assert "none of the 1 checkpoints in" in rank["all damaged"]
