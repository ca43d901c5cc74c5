"""Rows of `text` and `tokenized`: what is a document, what are tokens, and every way in which they are not."""

from typing import Any

import pytest
from tests.trainer.data.row_data import parsed, reason

from finetune_trainer.data.dialogues import Document, TokenRow


def tokens(row: dict[str, Any], told: list[str] | None = None) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    (item,) = parsed(row, told=told, format="tokenized")
    assert isinstance(item, TokenRow), item
    return item.input_ids, item.supervised


def test_a_text_is_a_document() -> None:
    told: list[str] = []
    (item,) = parsed({"text": " words\n", "url": "x"}, told=told, format="text")
    assert isinstance(item, Document)
    assert item.text == " words\n"
    assert told == ["./data.jsonl: columns that are not read: 'url' (1 rows)"]
    (named,) = parsed({"body": "words"}, format="text", columns={"text": "body"})
    assert isinstance(named, Document)


def test_the_same_text_is_one_tree_and_a_column_of_trees_is_used() -> None:
    items = parsed({"text": "a"}, {"text": "a"}, {"text": "b"}, format="text")
    trees = [item.tree for item in items if isinstance(item, Document)]
    assert trees[0] == trees[1] != trees[2]
    (item,) = parsed({"text": "a", "site": 7}, format="text", columns={"tree": "site"})
    assert isinstance(item, Document)
    assert item.tree == "7"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": ""}, "column 'text': the text is empty"),
        ({"text": None}, "column 'text' is of type NoneType, not a string"),
        ({"text": ["a"]}, "column 'text' is of type list, not a string"),
        ({"text": "\ud83d"}, "column 'text': half of a surrogate pair"),
        ({"body": "a"}, "no column 'text'; the row has 'body' (see columns.text)"),
    ],
)
def test_a_row_without_a_text(row: dict[str, Any], expected: str) -> None:
    assert reason(row, format="text").startswith(expected)


def test_recognition_by_their_columns() -> None:
    assert isinstance(parsed({"text": "a"}, format="auto")[0], Document)
    assert isinstance(parsed({"input_ids": [1], "labels": [1]}, format="auto")[0], TokenRow)


@pytest.mark.parametrize("labels", [[-100, 5, 6], "[-100, 5, 6]"])
def test_labels_say_what_is_learnt(labels: Any) -> None:
    assert tokens({"input_ids": [4, 5, 6], "labels": labels}) == ((4, 5, 6), (False, True, True))


def test_without_labels_all_is_learnt_or_what_a_mask_says() -> None:
    told: list[str] = []
    assert tokens({"input_ids": [4, 5]}, told) == ((4, 5), (True, True))
    assert told == ["./data.jsonl: without column 'labels' every token is learnt (1 rows)"]
    assert tokens({"input_ids": [4, 5], "completion_mask": [0, 1]}) == ((4, 5), (False, True))
    assert tokens({"input_ids": [4, 5, 6], "completion_mask": [0, 1, 1], "assistant_masks": [1, 1, 0]})[1] == (False, True, False)


def test_the_attention_mask_is_told_and_padding_left_out() -> None:
    told: list[str] = []
    assert tokens({"input_ids": [0, 4, 5], "labels": [-100, 4, 5], "attention_mask": [0, 1, 1]}, told) == ((4, 5), (True, True))
    assert "column 'attention_mask' is not read" in told[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"labels": [1]}, "no column 'input_ids'"),
        ({"input_ids": None}, "column 'input_ids' is not a list of whole numbers"),
        ({"input_ids": []}, "column 'input_ids' is empty"),
        ({"input_ids": [1.5]}, "column 'input_ids' is not a list of whole numbers"),
        ({"input_ids": [True]}, "column 'input_ids' is not a list of whole numbers"),
        ({"input_ids": [1, -1]}, "column 'input_ids', position 2: -1 is no token id"),
        ({"input_ids": [2**40]}, f"column 'input_ids', position 1: {2**40} is no token id"),
        ({"input_ids": [2**70]}, "column 'input_ids' holds a number that is no token id"),
        ({"input_ids": [1, 2], "labels": [1]}, "column 'labels' has 1 entries, while 'input_ids' has 2"),
        (
            {"input_ids": [1, 2], "labels": [2, -100]},
            "column 'labels', position 1: 2, neither the id there (1) nor -100; labels are not shifted",
        ),
        ({"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 0]}, "column 'labels' has a label where 'attention_mask' is 0"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "column 'attention_mask' is not a 0 or 1 for each of the 2 ids"),
        ({"input_ids": [1], "labels": [-100], "attention_mask": [0]}, "column 'attention_mask' leaves no token"),
        ({"input_ids": [1, 2], "completion_mask": [2, 0]}, "column 'completion_mask' is not a 0 or 1 for each of the 2 ids"),
    ],
)
def test_rows_that_are_no_tokens(row: dict[str, Any], expected: str) -> None:
    assert reason(row, format="tokenized").startswith(expected)
