"""How many rows a step takes where the job doesn't say.

In: the spec and what is known of its data. Out: rows of a step, and of a micro-step. The recipe's 256 rows would make two steps of a few
hundred dialogues. The number follows from data and epochs alone, never from the workers, so that other workers go on with the same steps.
"""

from typing import Final

from finetune_api.finetunejob import FineTuneJobSpec
from finetune_api.training_run import DataShape

# A run of fewer steps than these hardly learns: its learning rate rises and falls in a few of them.
FEWEST_STEPS: Final = 100
# What an absent globalBatchSize may come to: the smallest divides among the GPUs of a node, the largest is the recipe's.
SIZES: Final = (256, 128, 64, 32, 16, 8)
# Where `maxSteps` says how long the run is.
_ASSUMED_EPOCHS: Final = 3


def global_batch_size(spec: FineTuneJobSpec, data: DataShape | None) -> int:
    """Rows of a step: as the job says, else the largest of SIZES that leaves FEWEST_STEPS; the largest of all while the data is unknown."""
    given = spec.training.global_batch_size
    if given is not None or data is None:
        return given or SIZES[0]
    return fitting_batch_size(data.train.rows, spec.training.effective_epochs or _ASSUMED_EPOCHS)


def fitting_batch_size(rows: int, epochs: int) -> int:
    """The largest of SIZES of which the rows of all epochs fill FEWEST_STEPS; the smallest where they fill none.

    >>> [fitting_batch_size(rows, epochs=3) for rows in (40, 600, 3000, 10_000)]
    [8, 16, 64, 256]
    """
    return next((size for size in SIZES if epochs * rows // size >= FEWEST_STEPS), SIZES[-1])


def chosen_size(size: int, total_steps: int | None) -> str:
    """What an absent globalBatchSize came to, in a sentence.

    >>> chosen_size(8, 30)
    'globalBatchSize is absent: 8 rows a step, the fewest that we take; set it to 1, 2 or 4 for more than 30 steps.'
    """
    why = f"the largest power of two up to {SIZES[0]} that leaves {FEWEST_STEPS} steps"
    if size == SIZES[-1] and total_steps is not None and total_steps < FEWEST_STEPS:
        why = f"the fewest that we take; set it to 1, 2 or 4 for more than {total_steps} steps"
    return f"globalBatchSize is absent: {size} rows a step, {why}."


def micro_batch_size(spec: FineTuneJobSpec, batch_size: int) -> int:
    """Rows of a worker's micro-step: as the job says, fewer where it leaves the step to us and a worker's share is smaller."""
    wanted, world = spec.training.micro_batch_size, spec.workers.world_size
    if spec.training.global_batch_size is not None or not world or batch_size % world:
        return wanted
    share = batch_size // world
    return next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)


def halved(micro_batch_size: int) -> int | None:
    """The largest size of at most half that divides it, so that whatever it divides stays divisible; None where it is 1 already.

    >>> [halved(size) for size in (16, 12, 9, 5, 1)]
    [8, 6, 3, 1, None]
    """
    return next((size for size in range(micro_batch_size // 2, 0, -1) if micro_batch_size % size == 0), None)
