"""Rows of `text` and `tokenized`: documents, and token ids made elsewhere.

In: a row. Out: the text, or ids and which of them are learnt. Whether the ids are of the model's vocabulary is known where there is a
tokenizer, in `preparation`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.finetunejob import Columns
from finetune_trainer.data.dialogues import InvalidRow
from finetune_trainer.data.formats import value_of
from finetune_trainer.data.messages import Told
from finetune_trainer.data.values import is_unicode, object_of, text_of

IGNORE_INDEX = -100
_LARGEST_ID = 2**32 - 1
# What TRL calls the choice of learnt tokens where there are no labels.
_MASKS = ("completion_mask", "assistant_masks")


def document_of(data: dict[str, Any], columns: Columns) -> str:
    """The text of a row. Raises InvalidRow."""
    column = columns.text or "text"
    text = text_of(value_of(data, column, "columns.text"), f"column {column!r}")
    if not text or text.isspace():
        raise InvalidRow(f"column {column!r}: the text is empty")
    if not is_unicode(text):
        raise InvalidRow(f"column {column!r}: half of a surrogate pair, which is no character, is in the text")
    return text


def tokens_of(data: dict[str, Any], told: Told) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Ids, and for each whether it is learnt; padding, by the attention mask, is left out. Raises InvalidRow."""
    ids = _integers(value_of(data, "input_ids", "format: tokenized"), "input_ids")
    if not len(ids):
        raise InvalidRow("column 'input_ids' is empty")
    wrong = np.flatnonzero((ids < 0) | (ids > _LARGEST_ID))
    if len(wrong):
        raise InvalidRow(f"column 'input_ids', position {wrong[0] + 1}: {ids[wrong[0]]} is no token id")
    learnt = _learnt(data, ids, told)
    present = _beside(data, "attention_mask", ids)
    if present is not None:
        told["column 'attention_mask' is not read: attention is causal within a row; padding is left out"] = None
        if bool((learnt & ~present).any()):
            raise InvalidRow("column 'labels' has a label where 'attention_mask' is 0")
        ids, learnt = ids[present], learnt[present]
        if not len(ids):
            raise InvalidRow("column 'attention_mask' leaves no token")
    return tuple(ids.tolist()), tuple(learnt.tolist())


def _learnt(data: dict[str, Any], ids: NDArray[np.int64], told: Told) -> NDArray[np.bool_]:
    """By labels, else by the masks of TRL, else all."""
    if data.get("labels") is not None:
        labels = _integers(data["labels"], "labels")
        if len(labels) != len(ids):
            raise InvalidRow(f"column 'labels' has {len(labels)} entries, while 'input_ids' has {len(ids)}")
        wrong = np.flatnonzero((labels != ids) & (labels != IGNORE_INDEX))
        if len(wrong):
            first = wrong[0]
            raise InvalidRow(
                f"column 'labels', position {first + 1}: {labels[first]}, neither the id there ({ids[first]}) nor {IGNORE_INDEX}; "
                "labels are not shifted"
            )
        return np.equal(labels, ids)
    masks = [mask for name in _MASKS if (mask := _beside(data, name, ids)) is not None]
    if not masks:
        told["without column 'labels' every token is learnt"] = None
    learnt = np.ones(len(ids), dtype=np.bool_)
    for mask in masks:
        learnt &= mask
    return learnt


def _beside(data: dict[str, Any], column: str, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """A column of zeros and ones, one for each id."""
    if data.get(column) is None:
        return None
    values = _integers(data[column], column)
    if len(values) != len(ids) or not bool(((values == 0) | (values == 1)).all()):
        raise InvalidRow(f"column {column!r} is not a 0 or 1 for each of the {len(ids)} ids")
    return np.equal(values, 1)


def _integers(value: Any, column: str) -> NDArray[np.int64]:
    found = object_of(value, f"column {column!r}")
    if not isinstance(found, list) or not all(type(entry) is int for entry in found):
        raise InvalidRow(f"column {column!r} is not a list of whole numbers")
    try:
        return np.array(found, dtype=np.int64)
    except OverflowError:
        raise InvalidRow(f"column {column!r} holds a number that is no token id") from None
