"""One global order of packed rows, and each rank's share of a step.

In: a packing, the supervised count of each example, the global batch size and a seed. Out: the rows of any optimizer step,
and the micro-batches of any rank in it. Which rows a step holds depends on nothing else, so a position in training is one
integer, and it means the same at any world size and micro-batch size. This room does not know models or processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.model.micro_batch import Integers, MicroBatch, empty_micro_batch, flat_micro_batch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.preparation.packing import Packing

# A token's matrix products cost as much as its attention over this many others: 24 H^2 a token against 2 H for each token
# attended to, so 12 H; H = 1024 stands for all widths, as rows are nearly equal in tokens and mostly differ in attention.
_ATTENTION_PARITY_TOKENS = 12 * 1024


class Examples(Protocol):
    """Where the tokens of an example come from: a memory-mapped store, or lists in a test."""

    @property
    def lengths(self) -> Integers: ...

    @property
    def supervised_counts(self) -> Integers: ...

    def ids(self, index: int) -> NDArray[np.integer]: ...

    def labels(self, index: int) -> NDArray[np.integer]: ...

    def origin(self, index: int) -> tuple[str, int] | None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchPlan:
    """Steps are counted from 0 over all epochs. Without a seed rows come in their own order, as evaluation wants them."""

    examples: Examples
    packing: Packing
    supervised_counts: Integers  # per example, without its first label, which nothing predicts
    global_batch_size: int  # rows in an optimizer step
    seed: int | None

    @property
    def steps_per_epoch(self) -> int:
        """The last one may be short; no row is left out."""
        return -(-self.packing.num_rows // self.global_batch_size)

    def rows_of_step(self, step: int) -> Integers:
        """The rows of a step, in the global order: a pure function of packing, batch size, seed and step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.global_batch_size
        return self._epoch_order(epoch)[first : first + self.global_batch_size]

    def supervised_of_step(self, step: int) -> int:
        """Labels that count in the loss of a step, over all ranks: known before the step begins."""
        return self.supervised_of_rows(self.rows_of_step(step).tolist())

    def tokens_of_step(self, step: int) -> int:
        """Tokens of a step, over all ranks."""
        return int(self.packing.row_tokens[self.rows_of_step(step)].sum())

    def micro_batches(self, step: int, rank: int, world_size: int, micro_batch_size: int) -> list[MicroBatch]:
        """A rank's micro-batches of a step: as many as the fullest rank needs, on every rank; one may be empty where rows run out."""
        return [self._micro_batch(share[rank]) for share in self.shares_of_step(step, world_size, micro_batch_size)]

    def supervised_of_rows(self, rows: Sequence[int]) -> int:
        """Labels of these rows that count in the loss."""
        return int(self._row_supervised[list(rows)].sum())

    def _epoch_order(self, epoch: int) -> Integers:
        return np.arange(self.packing.num_rows) if self.seed is None else _shuffled(self.packing.num_rows, self.seed, epoch)

    def shares_of_step(self, step: int, world_size: int, micro_batch_size: int) -> list[list[list[int]]]:
        """Rows by micro-step and rank. Ranks wait for one another in each micro-step, so rows of like cost share one."""
        rows = self.rows_of_step(step)
        by_cost = rows[np.argsort(-self._row_costs[rows], kind="stable")]
        per_micro_step = world_size * micro_batch_size
        groups = [by_cost[start : start + per_micro_step].tolist() for start in range(0, len(by_cost), per_micro_step)]
        return [_balanced(group, self._row_costs, world_size, micro_batch_size) for group in groups]

    def _micro_batch(self, rows: Sequence[int]) -> MicroBatch:
        return micro_batch(self.examples, [example for row in rows for example in self.packing.row(row).tolist()])

    @cached_property
    def _row_supervised(self) -> Integers:
        return _row_sums(self.packing, self.supervised_counts)

    @cached_property
    def _row_costs(self) -> Integers:
        lengths = np.asarray(self.examples.lengths, dtype=np.int64)
        return _ATTENTION_PARITY_TOKENS * self.packing.row_tokens + _row_sums(self.packing, lengths * lengths) // 2


def micro_batch(examples: Examples, indices: Sequence[int]) -> MicroBatch:
    """The examples as segments of one flat batch; none of them gives the empty micro-batch."""
    if not indices:
        return empty_micro_batch()
    labels = [np.append(examples.labels(index)[1:], IGNORE_INDEX) for index in indices]
    return flat_micro_batch([np.asarray(examples.ids(index)) for index in indices], labels)


def _balanced(rows: list[int], costs: Integers, world_size: int, micro_batch_size: int) -> list[list[int]]:
    """The rows of a micro-step by rank: the costliest first, each to the rank with the least so far that has a place."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    totals = [0] * world_size
    for row in rows:
        rank = min((rank for rank in range(world_size) if len(shares[rank]) < micro_batch_size), key=lambda rank: (totals[rank], rank))
        shares[rank].append(row)
        totals[rank] += int(costs[row])
    return shares


def _row_sums(packing: Packing, values: Integers) -> Integers:
    """The sum over each row's examples."""
    return np.add.reduceat(np.asarray(values, dtype=np.int64)[packing.example_indices], packing.row_offsets[:-1])


@lru_cache(maxsize=2)
def _shuffled(num_rows: int, seed: int, epoch: int) -> Integers:
    """The rows of an epoch in random order."""
    return np.argsort(_random_keys(np.arange(num_rows), seed, epoch), kind="stable")


def _random_keys(rows: Integers, seed: int, epoch: int) -> NDArray[np.uint64]:
    """A key for each row, by SplitMix64 (Steele, Lea, Flood 2014): fixed arithmetic; a library's generator may change with its version."""
    start = _mixed(_mixed(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(epoch))
    return _mixed(start + rows.astype(np.uint64))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64, modulo 2**64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
