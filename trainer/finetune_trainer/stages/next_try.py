"""What the same command does after training that failed, beyond going on from the newest checkpoint: told with the error.

Where memory ran out it takes half the rows a micro-step, as the operator's next attempt does: the run folder remembers how many, for as
long as the job is the same. Steps and their rows are the same at any size, and so is the run's identity.
"""

import hashlib
import json
from dataclasses import replace

from finetune_api.batch_size import halved
from finetune_api.errors import NonFiniteLoss, OutOfMemory, StorageFailed, TrainingFailed
from finetune_api.finetunejob import FineTuneJob
from finetune_trainer.files.atomic import write_atomically
from finetune_trainer.reporting.events import Notice
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.stages.local_run import LocalRun


def with_rows_that_fit(local: LocalRun) -> LocalRun:
    """The same, or with fewer rows a micro-step where an earlier try of this job ran out of memory. Told."""
    fewer = _remembered(local.folder, local.job)
    if fewer is None:
        return local
    local.sink.record(
        Notice(message=f"an earlier try of this job ran out of memory: micro-batches have {_rows(fewer)} now, and the steps stay the same")
    )
    training = local.job.spec.training.model_copy(update={"micro_batch_size": fewer})
    return replace(local, job=local.job.model_copy(update={"spec": local.job.spec.model_copy(update={"training": training})}))


def told_with_next_try(local: LocalRun, error: TrainingFailed) -> TrainingFailed:
    """The same error, with what the next try does; `local` is as it was given. What it needs to know is written down."""
    if isinstance(error, NonFiniteLoss):
        return NonFiniteLoss(
            f"{error}. The same command goes on from the newest checkpoint and computes this again, which helps only if the machine was at "
            "fault; a new run has a --run-folder, and storage, of its own"
        )
    run = local.folder.frozen_run()
    fewer = halved(run.plan.micro_batch_size) if run is not None else None
    if not isinstance(error, OutOfMemory) or fewer is None or not local.job.spec.failure_policy.halve_micro_batch_size:
        return error
    record = {"job": _digest(local.job), "microBatchSize": fewer}
    try:
        write_atomically(local.folder.memory, json.dumps(record) + "\n")
    except OSError:
        return error  # the disk is full, too: the next try is as this one was
    return OutOfMemory(f"{error}; the same command goes on from the newest checkpoint with {_rows(fewer)}")


def _remembered(folder: RunFolder, job: FineTuneJob) -> int | None:
    try:
        found = json.loads(folder.memory.read_text(encoding="utf-8"))
        return int(found["microBatchSize"]) if found["job"] == _digest(job) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageFailed(f"{folder.memory} can't be read: {error}; delete it, and the job's microBatchSize is tried again") from error


def _digest(job: FineTuneJob) -> str:
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"
