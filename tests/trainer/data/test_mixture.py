"""Choices over rows and trees: the limit of wrong rows, weights, and the split that never divides a tree."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from finetune_api.errors import InvalidData
from finetune_trainer.data.dialogues import Dialogue, Dropped, Kind, Message
from finetune_trainer.data.mixture import copies, held_out, limited, within_limit

TREES = [f"tree {number}" for number in range(200)]


def dialogue(row: int) -> Dialogue:
    return Dialogue(source="d.jsonl", row=row, tree=str(row), messages=(Message(role="assistant", content="A"),))


def dropped(row: int, kind: Kind = "invalid") -> Dropped:
    return Dropped(source="d.jsonl", row=row, reason=f"reason {row}", kind=kind)


def test_one_wrong_row_in_ten_thousand_is_named() -> None:
    items = [dialogue(row) for row in range(1, 10_001)]
    items[7_776:7_777] = [dropped(7_777)]  # type: ignore[list-item]
    with pytest.raises(InvalidData) as caught:
        list(within_limit(items, 0))
    assert str(caught.value) == (
        "d.jsonl row 7777: reason 7777\n"
        "no row may be wrong (spec.dataset.maxInvalidRows=0); correct them, or raise maxInvalidRows to drop them"
    )
    assert list(within_limit(items, 1)) == items


def test_the_refusal_names_the_first_rows_that_follow_too() -> None:
    items: list[Dialogue | Dropped] = [dialogue(1), dropped(2), dialogue(3), dropped(4), *map(dropped, range(5, 100))]
    with pytest.raises(InvalidData) as caught:
        list(within_limit(items, 1))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        *(f"d.jsonl row {row}" for row in (2, 4, 5, 6, 7)),
        "more than 1 rows are wrong (spec.dataset.maxInvalidRows=1); correct them, or raise maxInvalidRows to drop them",
    ]


def test_rows_before_the_limit_are_passed_on() -> None:
    items = within_limit([dialogue(1), dropped(2), dialogue(3), dropped(4)], 1)
    assert [next(items).row for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvalidData):
        next(items)


def test_filtered_and_trimmed_rows_are_not_wrong() -> None:
    items: list[Dialogue | Dropped] = [dropped(1, "filtered"), dropped(2, "trimmed")]
    assert list(within_limit(items, 0)) == items


def test_the_search_for_more_wrong_rows_ends() -> None:
    def endless() -> Iterator[Dialogue | Dropped]:
        yield dropped(1)
        row = 1
        while True:
            row += 1
            yield dialogue(row)

    with pytest.raises(InvalidData, match="row 1: reason 1"):
        list(within_limit(endless(), 0))


def test_a_limit_counts_dialogues_and_reads_no_further() -> None:
    items: Iterator[Dialogue | Dropped] = iter([dropped(1), dialogue(2), dropped(3), dialogue(4), dialogue(5)])
    assert [item.row for item in limited(items, 2)] == [1, 2, 3, 4]
    assert next(items).row == 5
    assert len(list(limited([dialogue(1), dialogue(2)], None))) == 2


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(1.0, {1: 200}), (2.0, {2: 200}), (0.5, {0: 100, 1: 100}), (2.25, {2: 150, 3: 50}), (0.001, {0: 200})],
)
def test_a_weight_is_met_exactly(weight: float, expected: dict[int, int]) -> None:
    assert Counter(copies(TREES, weight, seed=1).values()) == expected


def test_a_smaller_weight_keeps_some_of_the_same_trees() -> None:
    half = {tree for tree, count in copies(TREES, 0.5, seed=1).items() if count}
    quarter = {tree for tree, count in copies(TREES, 0.25, seed=1).items() if count}
    assert quarter < half


@pytest.mark.parametrize(("fraction", "size"), [(0.1, 20), (0.5, 100), (0.0001, 1), (0.9999, 199)])
def test_held_out_trees_are_as_many_as_asked_but_neither_none_nor_all(fraction: float, size: int) -> None:
    assert len(held_out(TREES, fraction, seed=42)) == size


def test_choices_depend_on_names_and_seed_only() -> None:
    shuffled = random.Random(3).sample(TREES * 2, 400)
    assert held_out(shuffled, 0.3, seed=42) == held_out(TREES, 0.3, seed=42) != held_out(TREES, 0.3, seed=43)
    assert copies(shuffled, 0.3, seed=42) == copies(TREES, 0.3, seed=42) != copies(TREES, 0.3, seed=43)


def test_weight_and_split_choose_independently() -> None:
    kept = {tree for tree, count in copies(TREES, 0.5, seed=42).items() if count}
    assert 30 < len(held_out(TREES, 0.5, seed=42) & kept) < 70


def test_the_choice_is_the_same_in_every_version() -> None:
    """A changed choice would change the run behind its fingerprint."""
    assert held_out([str(number) for number in range(10)], 0.3, seed=42) == {"0", "5", "9"}


def test_one_tree_can_not_be_divided() -> None:
    with pytest.raises(InvalidData, match=r"1 conversation tree can't be divided .* spec\.dataset\.evaluation\.fraction"):
        held_out(["a", "a"], 0.5, seed=42)
