"""The driver: which of Ray's nodes train, and what the workers came to. Workers without the GPUs that they were given: tests/cluster."""

from typing import Any

import pytest

from finetune_api.errors import InvalidStorage, TrainingFailed
from finetune_trainer.driver import steps_done, worker_nodes


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": f"id-of-{name}", "NodeManagerHostname": name, "Alive": alive, "Resources": resources}


def test_the_head_and_lost_nodes_do_not_train() -> None:
    head, gone = node("head", memory=1e9), node("w0", alive=False, CPU=8.0, GPU=8.0)
    workers = [node("w2", CPU=8.0, GPU=8.0), node("w1", CPU=8.0, GPU=8.0)]
    assert [one["NodeManagerHostname"] for one in worker_nodes([head, gone, *workers], gpu=False)] == ["w1", "w2"]
    assert [one["NodeManagerHostname"] for one in worker_nodes([head, node("w3", CPU=8.0), *workers], gpu=True)] == ["w1", "w2"]


def test_what_is_done_counts_even_if_the_workers_died_afterwards() -> None:
    """A pod that goes when its checkpoint is committed may be gone before Ray knows that it was done."""
    assert steps_done(7, None, RuntimeError("worker 0 died")) == 7


def test_a_worker_that_died_without_a_word() -> None:
    with pytest.raises(TrainingFailed, match=r"the workers failed: no such actor; the same command goes on from the newest checkpoint"):
        steps_done(None, None, RuntimeError("no such actor"))
    with pytest.raises(TrainingFailed, match=r"the workers ended without a result"):
        steps_done(None, None, None)


def test_what_a_worker_said_comes_back_as_its_error() -> None:
    with pytest.raises(InvalidStorage, match="no such bucket"):
        steps_done(None, ("InvalidStorage", "no such bucket"), RuntimeError("worker 1 failed"))
