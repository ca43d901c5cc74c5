"""The driver: which of Ray's nodes train, what the workers came to, and what is said when a GPU isn't there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.errors import InvalidStorage, TrainingFailed
from finetune_trainer.launch.driver import steps_done, worker_nodes
from finetune_trainer.machine import this_machine


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


BLIND = """
import sys, threading
from pathlib import Path
from tests.exported_models import base_folder, training_run
from finetune_api.errors import TrainingFailed
from finetune_trainer.launch import driver
from finetune_trainer.training.places import Places
from finetune_trainer.reporting.events import FanOut
from finetune_trainer.launch.ray_session import local_ray
folder = Path(sys.argv[1])
run = training_run(base_folder(folder / "base", "llama"))
run = run.model_copy(update={"plan": run.plan.model_copy(update={"device": "gpu"})})
places = Places(model=str(folder / "base"), prepared=str(folder), base=str(folder), storage=str(folder / "storage"))
with local_ray(num_cpus=2, num_gpus=2, dashboard=False, logs=folder / "logs"):
    try:
        driver.train(run, places, sink=FanOut([]), stop=threading.Event())
    except TrainingFailed as error:
        told = error
print(told)
"""


@pytest.mark.training
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(this_machine().gpus), reason="workers see GPUs here")
def test_workers_that_were_given_gpus_and_see_none(tmp_path: Path) -> None:
    """Ray believes what it is told of GPUs; NCCL's own words would come from inside it, and name no node."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", BLIND, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert re.search(r"^workers on \S+ were given GPUs and see none; check the NVIDIA driver .*: cpu$", done.stdout, re.M), done.stderr
