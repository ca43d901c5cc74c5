"""Batches: one global order at any world size, micro-batches that keep dialogues apart, counts that are known before a step."""

from dataclasses import dataclass

import numpy as np
import pytest

from finetune_trainer.model.micro_batch import MicroBatch, empty_micro_batch
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.preparation.packing import pack
from finetune_trainer.preparation.store import supervised_counts
from finetune_trainer.training.batches import BatchPlan, micro_batch

CAPACITY = 64
WORLD_SIZES = [1, 2, 3, 4, 8]
GOLDEN_FIRST_STEP = [17, 8, 1, 22, 12, 24, 3, 20, 2, 4, 10, 15]
GOLDEN_THIRD_EPOCH = [13, 3, 21, 23, 10, 16, 9, 15, 0, 20, 17, 12]


@dataclass
class ListExamples:
    """Examples in memory; every token is different from every other, so that a batch says where its tokens came from."""

    tokens: list[np.ndarray]
    masks: list[np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(tokens) for tokens in self.tokens])

    @property
    def supervised_counts(self) -> np.ndarray:
        return supervised_counts(np.concatenate(self.masks), self.lengths)

    def ids(self, index: int) -> np.ndarray:
        return self.tokens[index]

    def labels(self, index: int) -> np.ndarray:
        return np.where(self.masks[index] == 1, self.tokens[index], IGNORE_INDEX)

    def origin(self, index: int) -> tuple[str, int]:
        return f"{'ab'[index % 2]}.jsonl", index


def examples(count: int = 50, seed: int = 3, share: float = 0.5) -> ListExamples:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, CAPACITY + 1, size=count)
    stops = np.cumsum(lengths)
    tokens = [np.arange(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    masks = [(generator.random(length) < share).astype(np.uint8) for length in lengths]
    return ListExamples(tokens, masks)


def plan(data: ListExamples, global_batch_size: int = 12, seed: int | None = 7) -> BatchPlan:
    return BatchPlan(
        examples=data,
        packing=pack(data.lengths, CAPACITY),
        supervised_counts=data.supervised_counts,
        global_batch_size=global_batch_size,
        seed=seed,
    )


def step_of_all_ranks(batches: BatchPlan, step: int, world_size: int, micro_batch_size: int) -> list[list[MicroBatch]]:
    return [batches.micro_batches(step, rank, world_size, micro_batch_size) for rank in range(world_size)]


def tokens_of(micro_batches: list[MicroBatch]) -> list[int]:
    """Tokens of the batches that are not empty ones, sorted."""
    real = [batch for batch in micro_batches if batch.max_length > 1 or batch.num_supervised or batch.input_ids.tolist() != [0]]
    return sorted(token for batch in real for token in batch.input_ids.tolist())


def tokens_of_step(data: ListExamples, batches: BatchPlan, step: int) -> list[int]:
    rows = batches.rows_of_step(step)
    return sorted(token for row in rows for example in batches.packing.row(row) for token in data.ids(example).tolist())


def test_an_epoch_holds_every_row_once_and_the_last_step_may_be_short() -> None:
    batches = plan(examples())
    steps = [batches.rows_of_step(step) for step in range(batches.steps_per_epoch)]
    assert sorted(np.concatenate(steps).tolist()) == list(range(batches.packing.num_rows))
    assert {len(step) for step in steps[:-1]} == {12}
    assert 0 < len(steps[-1]) < 12


def test_the_order_is_another_in_each_epoch_and_with_each_seed() -> None:
    data = examples()
    first, other_seed = plan(data), plan(data, seed=8)
    epoch = first.steps_per_epoch
    assert first.rows_of_step(0).tolist() != first.rows_of_step(epoch).tolist()
    assert first.rows_of_step(0).tolist() != other_seed.rows_of_step(0).tolist()


def test_the_order_never_changes_between_versions() -> None:
    """Golden: a run that goes on with a newer numpy, or a newer version of ours, must go on with the same rows."""
    assert plan(examples()).rows_of_step(0).tolist() == GOLDEN_FIRST_STEP
    assert plan(examples()).rows_of_step(2 * plan(examples()).steps_per_epoch).tolist() == GOLDEN_THIRD_EPOCH


def test_without_a_seed_rows_come_in_their_own_order() -> None:
    batches = plan(examples(), seed=None)
    assert batches.rows_of_step(0).tolist() == list(range(12))
    assert batches.rows_of_step(batches.steps_per_epoch).tolist() == list(range(12))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_all_ranks_together_compute_exactly_the_rows_of_the_step(world_size: int, micro_batch_size: int) -> None:
    data = examples()
    batches = plan(data)
    for step in range(2 * batches.steps_per_epoch):
        ranks = step_of_all_ranks(batches, step, world_size, micro_batch_size)
        assert tokens_of([batch for rank in ranks for batch in rank]) == tokens_of_step(data, batches, step)
        assert len({len(rank) for rank in ranks}) == 1


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_rows_of_a_micro_batch_never_pass_its_size(world_size: int) -> None:
    batches = plan(examples())
    for step in range(batches.steps_per_epoch):
        for rank in step_of_all_ranks(batches, step, world_size, 2):
            assert all(len(batch.input_ids) <= 2 * CAPACITY for batch in rank)


def test_a_step_has_as_many_micro_steps_as_its_fullest_rank_needs() -> None:
    """A short one has fewer: what is empty on every rank would gather the whole model for nothing."""
    batches = plan(examples())
    last = batches.steps_per_epoch - 1
    assert (len(batches.rows_of_step(0)), len(batches.rows_of_step(last))) == (12, 1)
    assert {len(batches.micro_batches(0, rank, 3, 2)) for rank in range(3)} == {2}
    assert {len(batches.micro_batches(last, rank, 3, 2)) for rank in range(3)} == {1}
    ranks = step_of_all_ranks(batches, last, 8, 1)
    assert sum(batch.num_supervised == 0 and batch.max_length == 1 for (batch,) in ranks) == 7, "eight ranks, one row"


def test_a_full_step_has_no_empty_micro_batch_when_sizes_divide() -> None:
    batches = plan(examples(200), global_batch_size=12)
    sizes = [batch.max_length for rank in step_of_all_ranks(batches, 0, 3, 2) for batch in rank]
    assert min(sizes) > 1
    assert len(sizes) == 6


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_supervised_count_of_a_step_is_known_and_true(world_size: int, share: float) -> None:
    batches = plan(examples(share=share))
    for step in range(batches.steps_per_epoch):
        micro_batches = [batch for rank in step_of_all_ranks(batches, step, world_size, 2) for batch in rank]
        assert batches.supervised_of_step(step) == sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in micro_batches)
        assert batches.supervised_of_step(step) == sum(batch.num_supervised for batch in micro_batches)


def test_resuming_is_an_index() -> None:
    """A plan made anew, as after a crash, gives step 5 what the first plan gave it."""
    before, after = plan(examples()), plan(examples())
    for rank in range(2):
        one, two = (batches.micro_batches(5, rank, 2, 3) for batches in (before, after))
        assert [batch.input_ids.tolist() for batch in one] == [batch.input_ids.tolist() for batch in two]


def test_a_micro_batch_keeps_examples_apart() -> None:
    """Bug 18 of the published code: positions and boundaries begin anew, and no label reaches into the next dialogue."""
    data = ListExamples([np.array([5, 6, 7]), np.array([8, 9])], [np.array([1, 0, 1], np.uint8), np.array([1, 1], np.uint8)])
    batch = micro_batch(data, [0, 1])
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert batch.labels.tolist() == [-100, 7, -100, 9, -100]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.cu_seq_lens.tolist() == [0, 3, 5]
    assert batch.max_length == 3
    assert batch.num_supervised == 2


def test_the_first_label_of_a_segment_never_counts() -> None:
    data = ListExamples([np.array([5]), np.array([6, 7])], [np.array([1], np.uint8), np.array([1, 0], np.uint8)])
    assert data.supervised_counts.tolist() == [0, 0]
    assert micro_batch(data, [0, 1]).labels.tolist() == [-100, -100, -100]


def test_types_are_those_that_kernels_take() -> None:
    batch = plan(examples()).micro_batches(0, 0, 1, 2)[0]
    assert (batch.input_ids.dtype, batch.labels.dtype, batch.position_ids.dtype) == (np.int64, np.int64, np.int64)
    assert batch.cu_seq_lens.dtype == np.int32


def test_the_empty_micro_batch_has_a_token_and_nothing_to_learn() -> None:
    batch = empty_micro_batch()
    assert batch.labels.tolist() == [IGNORE_INDEX]
    assert batch.cu_seq_lens.tolist() == [0, 1]
    assert batch.num_supervised == 0


def test_ranks_wait_less_for_one_another_than_with_rows_dealt_in_order() -> None:
    """Each micro-step lasts as long as its slowest rank: the tokens of the fullest rank, added up, are what a step costs."""
    batches = plan(examples(400), global_batch_size=32)
    last = batches.steps_per_epoch - 2
    tokens = np.array([[len(batch.input_ids) for batch in rank] for rank in step_of_all_ranks(batches, last, 4, 2)])
    dealt = batches.packing.row_tokens[batches.rows_of_step(last)].reshape(4, 4, 2).sum(axis=2)
    assert tokens.sum() == dealt.sum()
    assert tokens.max(axis=0).sum() < dealt.max(axis=0).sum()
