"""Packing: every example in one row, no row over its capacity, rows nearly full, and the same plan every time."""

import numpy as np
import pytest

from finetune_trainer.preparation.packing import Packing, pack


def realistic_lengths(count: int, capacity: int, seed: int = 0) -> np.ndarray:
    """Spread like OpenAssistant's dialogues: most are short, some fill a row."""
    return np.clip(np.random.default_rng(seed).lognormal(5.6, 0.9, count).astype(np.int64), 8, capacity)


def rows(packing: Packing) -> list[list[int]]:
    return [packing.row(row).tolist() for row in range(packing.num_rows)]


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """The textbook version, one example at a time: how many rows there are with so many tokens left."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, left in enumerate(free) if left >= length]
        if fitting:
            free[min(fitting, key=lambda row: free[row])] -= length
        else:
            free.append(capacity - length)
    return sorted(free)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("capacity", [1, 7, 64, 1024])
def test_every_example_is_in_one_row_and_no_row_overflows(seed: int, capacity: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, capacity + 1, size=int(generator.integers(1, 400)))
    packing = pack(lengths, capacity)
    assert sorted(packing.example_indices.tolist()) == list(range(len(lengths)))
    assert [int(lengths[row].sum()) for row in rows(packing)] == packing.row_tokens.tolist()
    assert packing.row_tokens.max() <= capacity
    assert packing.row_tokens.min() >= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_histogram_version_is_best_fit_decreasing(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 51, size=300)
    packing = pack(lengths, 50)
    assert sorted((50 - packing.row_tokens).tolist()) == best_fit_decreasing(lengths.tolist(), 50)


@pytest.mark.parametrize("capacity", [1024, 2048, 8192])
def test_realistic_rows_are_full_to_99_percent(capacity: int) -> None:
    assert pack(realistic_lengths(20_000, capacity), capacity).fill >= 0.99


def test_the_plan_is_a_function_of_the_lengths_alone() -> None:
    lengths = realistic_lengths(5_000, 1024)
    first, second = pack(lengths, 1024), pack(lengths.copy(), 1024)
    assert np.array_equal(first.example_indices, second.example_indices)
    assert np.array_equal(first.row_offsets, second.row_offsets)


def test_examples_that_fill_a_row_stay_alone() -> None:
    assert rows(pack(np.array([8, 8, 8]), 8)) == [[0], [1], [2]]


def test_equal_short_examples_fill_rows_one_after_another() -> None:
    assert rows(pack(np.array([3] * 5), 8)) == [[0, 1], [2, 3], [4]]


def test_nothing_packs_to_no_rows() -> None:
    packing = pack(np.array([], dtype=np.int64), 8)
    assert packing.num_rows == 0
    assert packing.fill == 0.0


@pytest.mark.parametrize("lengths", [[0, 3], [9]])
def test_an_example_that_no_row_can_hold_is_our_bug(lengths: list[int]) -> None:
    with pytest.raises(AssertionError, match="empty or longer than a row"):
        pack(np.array(lengths), 8)


def test_a_million_dialogues_are_planned() -> None:
    packing = pack(realistic_lengths(1_000_000, 1024), 1024)
    assert packing.fill >= 0.99
    assert len(packing.example_indices) == 1_000_000
