"""Real files become dialogues; the counts were taken by a separate recursive walk over the files."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from finetune_api.finetunejob import DataFilter, DataSource
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.data.mixture import held_out
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.sources import read
from finetune_trainer.secrets import Secrets

pytestmark = pytest.mark.real_data


def dialogues(folder: Path, name: str, notices: list[str] | None = None, **options: Any) -> tuple[list[Dialogue], Counter[str]]:
    """The dialogues of a file, and how many things were dropped for each reason."""
    source = DataSource(path=f"./{name}", **options)
    rows = read(source, "train", base=folder, secrets=Secrets({}))
    items = list(parse(rows, source, notice=(notices if notices is not None else []).append))
    return [item for item in items if isinstance(item, Dialogue)], Counter(item.reason for item in items if isinstance(item, Dropped))


def test_openassistant_trees(test_data: Path) -> None:
    found, dropped = dialogues(test_data, "oasst1_en_trees.jsonl")
    assert len(found) == 403
    assert dropped == {"trailing user turn": 140, "a message of the path is synthetic": 13}
    assert all(dialogue.messages[-1].role == "assistant" for dialogue in found)
    assert {dialogue.row for dialogue in found} <= set(range(1, 71))


def test_the_split_of_openassistant_trees_divides_none(test_data: Path) -> None:
    found, _ = dialogues(test_data, "oasst1_en_trees.jsonl")
    trees = {dialogue.tree for dialogue in found}
    evaluation = held_out(trees, 0.1, seed=42)
    assert len(evaluation) == round(0.1 * len(trees))
    rows_of_evaluation = {dialogue.row for dialogue in found if dialogue.tree in evaluation}
    assert not rows_of_evaluation & {dialogue.row for dialogue in found if dialogue.tree not in evaluation}


def test_the_best_answers_of_openassistant_trees(test_data: Path) -> None:
    found, dropped = dialogues(test_data, "oasst1_en_trees.jsonl", filter=DataFilter(top_answers=1))
    assert len(found) == 79
    assert dropped["a message of the path is not among the best-ranked answers"] == 324
    assert not dialogues(test_data, "oasst1_en_trees.jsonl", filter=DataFilter(languages=["de"]))[0]


def test_prompts_and_completions(test_data: Path) -> None:
    notices: list[str] = []
    found, dropped = dialogues(test_data, "oasst_prompt_completion.jsonl", notices)
    assert (len(found), len({dialogue.tree for dialogue in found}), dropped) == (800, 800, {})
    assert notices == ["./oasst_prompt_completion.jsonl: format prompt-completion, recognised from row 1"]


def test_sharegpt(test_data: Path) -> None:
    notices: list[str] = []
    found, dropped = dialogues(test_data, "sharegpt_sample.json", notices)
    assert (len(found), dropped) == (500, {})
    assert sum(len(dialogue.messages) for dialogue in found) == 2000
    assert len({dialogue.tree for dialogue in found}) == 52
    assert notices == ["./sharegpt_sample.json: format sharegpt, recognised from row 1"]
