"""Numbers of a draft that follow from lengths and from memory: the row, the micro-batch, the GPUs of a node."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import FineTuneJob, ModelShape
from finetune_api.plan import Machine, plan
from finetune_assistant.drafting.found import FoundSource
from finetune_trainer.machine import ThisMachine, with_workers_of
from finetune_trainer.preparation.packing import pack

# Shorter rows are many small matrices; dialogues share a row, so that a long one costs nothing.
_SHORTEST_ROW = 256
_LONGEST_ROW = 32_768
_SHARE_HELD = 0.95
_MICRO_BATCHES = (4, 2, 1)
# What a GPU of a cluster is taken to have, until the job names one.
_USUAL_GPU = "nvidia-a100-80gb"


def fitting_length(lengths: Sequence[int], positions: int | None) -> int:
    """The smallest power of two that holds 95 % of the dialogues, of at least 256 tokens and at most the model's positions.

    >>> fitting_length([100] * 95 + [900] * 5, 2048), fitting_length([100] * 9 + [900], 2048), fitting_length([900], 500)
    (256, 1024, 256)
    """
    most = min(positions or _LONGEST_ROW, _LONGEST_ROW)
    length = min(_SHORTEST_ROW, 1 << (most.bit_length() - 1))
    while length * 2 <= most and sum(each <= length for each in lengths) < _SHARE_HELD * len(lengths):
        length *= 2
    return length


def num_rows(sources: Sequence[FoundSource], length: int) -> int | None:
    """About how many packed rows the sources fill, from the examples that were encoded; None where a source isn't known as a whole."""
    if not all(found.is_all and found.lengths for found in sources):
        return None
    rows = 0.0
    for found in sources:
        cut = np.minimum(np.array(found.lengths, dtype=np.int64), length)
        packed = sum(found.lengths) / length if found.divides else pack(cut, length).num_rows
        rows += packed * found.examples / len(cut) * found.source.weight
    return max(1, ceil(rows))


def fitting_micro_batch_size(job: FineTuneJob, shape: ModelShape | None, machine: ThisMachine) -> int | None:
    """The largest micro-batch of a few that the machine holds; None where none does, or nothing is known of the model."""
    if shape is None:
        return None
    job = with_workers_of(machine, job)
    return next((micro for micro in _MICRO_BATCHES if _fits(_changed(job, training={"micro_batch_size": micro}), shape, machine)), None)


def gpus_for(job: FineTuneJob, shape: ModelShape | None) -> int | None:
    """The fewest GPUs of one node, of 80 GB each, that hold the run; None where 8 don't, or nothing is known of the model."""
    if shape is None:
        return None
    sized = (_changed(job, workers={"gpus_per_node": gpus, "accelerator": _USUAL_GPU}) for gpus in (1, 2, 4, 8))
    return next((each.spec.workers.gpus_per_node for each in sized if _fits(each, shape, None)), None)


def _changed(job: FineTuneJob, **sections: dict[str, object]) -> FineTuneJob:
    changed = {name: getattr(job.spec, name).model_copy(update=fields) for name, fields in sections.items()}
    return job.model_copy(update={"spec": job.spec.model_copy(update=changed)})


def _fits(job: FineTuneJob, shape: ModelShape, machine: Machine | None) -> bool:
    try:
        plan(job, shape, None, machine)
    except InvalidSpec:
        return False
    return True
