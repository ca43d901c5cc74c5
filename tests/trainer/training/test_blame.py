"""training/blame.py: the rows that made a step infinite or NaN, in words that a user can act on."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from tests.trainer.training.test_batches import examples, plan

from finetune_trainer.training.blame import told_of_step

WORLD, ROWS = 3, 2


def losses(value: float = 1.0) -> list[list[float]]:
    """Of the micro-batches of a step of 12 rows: two on each rank."""
    return [[value, value] for _ in range(WORLD)]


def told(found: list[list[float]], grad_norm: float = math.nan, **changes: Any) -> str:
    return told_of_step(1, grad_norm, found, replace(plan(examples()), **changes), micro_batch_size=ROWS)


def test_the_dialogues_of_one_micro_batch_are_named_by_source_and_row() -> None:
    found, batches = losses(), plan(examples())
    found[2][1] = math.nan
    rows = batches.shares_of_step(1, WORLD, ROWS)[1][2]
    held = [example for row in rows for example in batches.packing.row(row).tolist()]
    text = told(found)
    assert text.startswith("step 2: the loss is NaN or infinite, by ")
    assert text.endswith("if they are as they should be, begin a new run with a lower spec.training.optimizer.learningRate")
    named = text.removeprefix("step 2: the loss is NaN or infinite, by ").partition(". Look at them")[0]
    assert sorted(map(int, re.findall(r"\d+", named))) == sorted(held)
    assert [part.partition(",")[0] for part in named.split("; ")] == sorted({f"{'ab'[example % 2]}.jsonl" for example in held})


def test_weights_that_make_every_row_infinite_are_not_laid_to_a_row() -> None:
    text = told(losses(math.inf))
    assert text.startswith("step 2: the loss of every row is NaN or infinite, so that the weights are to blame and no row: begin a new run")
    assert ".jsonl" not in text


def test_a_gradient_that_overflowed_names_the_rows_with_the_highest_loss_a_token() -> None:
    found = losses()
    found[0][1] = 9000.0
    text = told(found, grad_norm=math.inf)
    assert text.startswith("step 2: the gradient's norm is inf, though the loss of every row is finite; the highest, ")
    assert " a token, is by " in text
    assert text.endswith(". Begin a new run with a lower spec.training.optimizer.learningRate, or look at these rows")


def test_rows_of_data_whose_origin_nobody_knows_are_packed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = examples(), losses()
    found[0][0] = math.inf
    monkeypatch.setattr(type(data), "origin", lambda self, index: None)
    assert "packed rows " in told(found)


def test_an_empty_micro_batch_is_not_to_blame() -> None:
    """The epoch's last step may have fewer rows than there are ranks."""
    batches = plan(examples(count=3), global_batch_size=8)
    assert batches.packing.num_rows < 4
    found = [[1.0], [0.0], [0.0], [math.nan]]
    text = told_of_step(0, 1.0, found, batches, micro_batch_size=2)
    assert "gradient's norm" in text
