"""What the same command does after training that failed: told with the error, and remembered where it must be."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.exported_models import base_folder, training_run
from tests.trainer.heard import Heard

from finetune_api.errors import NonFiniteLoss, OutOfMemory, StorageFailed
from finetune_trainer.reporting.events import Notice
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.stages.local_run import LocalRun
from finetune_trainer.stages.next_try import told_with_next_try, with_rows_that_fit

FULL = OutOfMemory("worker 1 ran out of memory; set spec.training.microBatchSize to 1: the steps stay the same")


def begun(folder: Path, **spec: Any) -> LocalRun:
    """A run that froze what it does: micro-batches of 2 rows."""
    run = training_run(base_folder(folder / "base", "llama"), training={"microBatchSize": 2}, **spec)
    local = LocalRun(job=run.job, base=folder, folder=RunFolder(folder), sink=Heard(), stop=threading.Event())
    local.folder.freeze(run, folder)
    return local


def notices(local: LocalRun) -> list[str]:
    assert isinstance(local.sink, Heard)
    return [event.message for event in local.sink.events if isinstance(event, Notice)]


def rows(local: LocalRun) -> int:
    return with_rows_that_fit(local).job.spec.training.micro_batch_size


def test_where_memory_ran_out_the_next_try_has_half_the_rows_and_says_so(tmp_path: Path) -> None:
    local = begun(tmp_path)
    assert (rows(local), notices(local)) == (2, [])
    told = told_with_next_try(local, FULL)
    assert isinstance(told, OutOfMemory)
    assert str(told) == f"{FULL}; the same command goes on from the newest checkpoint with 1 row"
    assert rows(local) == 1
    assert notices(local) == ["an earlier try of this job ran out of memory: micro-batches have 1 row now, and the steps stay the same"]


def test_another_job_is_tried_as_it_is(tmp_path: Path) -> None:
    local = begun(tmp_path)
    told_with_next_try(local, FULL)
    training = local.job.spec.training.model_copy(update={"activation_checkpointing": False})
    other = replace(local, job=local.job.model_copy(update={"spec": local.job.spec.model_copy(update={"training": training})}))
    assert other.job != local.job
    assert rows(other) == 2


def test_one_row_can_not_be_halved(tmp_path: Path) -> None:
    local = begun(tmp_path)
    run = local.folder.frozen_run()
    assert run is not None
    local.folder.freeze(run.model_copy(update={"plan": run.plan.model_copy(update={"micro_batch_size": 1})}), tmp_path)
    assert told_with_next_try(local, FULL) is FULL
    assert rows(local) == 2


def test_who_wants_the_same_again_gets_it(tmp_path: Path) -> None:
    local = begun(tmp_path, failurePolicy={"halveMicroBatchSize": False})
    assert told_with_next_try(local, FULL) is FULL
    assert rows(local) == 2


def test_a_loss_that_is_not_finite_is_computed_again_and_no_more_is_promised(tmp_path: Path) -> None:
    local = begun(tmp_path)
    told = str(told_with_next_try(local, NonFiniteLoss("step 3: look at these rows")))
    assert told.startswith("step 3: look at these rows. The same command goes on from the newest checkpoint and computes this again")
    assert rows(local) == 2


def test_a_record_that_nobody_can_read_is_told(tmp_path: Path) -> None:
    local = begun(tmp_path)
    local.folder.memory.write_text("{")
    with pytest.raises(StorageFailed, match=r"memory\.json can't be read: .*; delete it"):
        with_rows_that_fit(local)
