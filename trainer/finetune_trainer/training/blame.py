"""What made a step's loss or gradient infinite or NaN: which rows, and so which dialogues of which source. Pure.

In: the losses of all ranks' micro-batches of a step, and which rows each of them held. Out: a sentence for a user.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from finetune_trainer.training.batches import BatchPlan

# Of one source that are named.
_MOST_ROWS: Final = 12
_NEW_RUN: Final = "begin a new run with a lower spec.training.optimizer.learningRate"


def told_of_step(step: int, grad_norm: float, losses: Sequence[Sequence[float]], batches: BatchPlan, *, micro_batch_size: int) -> str:
    """Of optimizer step `step`, counted from 0. `losses[rank][index]`: the sum of a micro-batch's losses."""
    shares = batches.shares_of_step(step, len(losses), micro_batch_size)
    rows = {(rank, index): share[rank] for index, share in enumerate(shares) for rank in range(len(losses)) if share[rank]}
    supervised = {where: batches.supervised_of_rows(held) for where, held in rows.items()}
    learnt = [where for where in rows if supervised[where]]
    bad = [where for where in learnt if not math.isfinite(losses[where[0]][where[1]])]
    if bad and len(bad) == len(learnt) > 1:
        return (
            f"step {step + 1}: the loss of every row is NaN or infinite, so that the weights are to blame and no row: {_NEW_RUN}, "
            "or look at the loss of the steps before"
        )
    if bad:
        held = [row for where in bad for row in rows[where]]
        named = _named(held, batches)
        return f"step {step + 1}: the loss is NaN or infinite, by {named}. Look at them; if they are as they should be, {_NEW_RUN}"
    worst = max(learnt, key=lambda where: losses[where[0]][where[1]] / supervised[where])
    loss = losses[worst[0]][worst[1]] / supervised[worst]
    return (
        f"step {step + 1}: the gradient's norm is {grad_norm}, though the loss of every row is finite; the highest, {loss:.4g} a token, "
        f"is by {_named(rows[worst], batches)}. {_NEW_RUN[0].upper()}{_NEW_RUN[1:]}, or look at these rows"
    )


def _named(rows: Sequence[int], batches: BatchPlan) -> str:
    """The dialogues of packed rows, by source and row there; the packed rows themselves where an older version wrote the data."""
    examples = [example for row in rows for example in batches.packing.row(row).tolist()]
    origins = sorted({origin for example in examples if (origin := batches.examples.origin(example)) is not None})
    if not origins:
        return f"packed rows {_listed(sorted(rows))} of the prepared data"
    return "; ".join(f"{source}, {_rows([row for _, row in found])}" for source, found in groupby(origins, key=lambda origin: origin[0]))


def _rows(numbers: Sequence[int]) -> str:
    return f"row{'s' if len(numbers) > 1 else ''} {_listed(numbers)}"


def _listed(numbers: Sequence[int]) -> str:
    """
    >>> _listed([3]), _listed([3, 9, 14]), _listed(range(1, 15))
    ('3', '3, 9 and 14', '1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more')
    """
    first, more = [str(number) for number in numbers[:_MOST_ROWS]], len(numbers) - _MOST_ROWS
    last = f"{more} more" if more > 0 else first.pop()
    return f"{', '.join(first)} and {last}" if first else last
