"""The text that filters read."""

import pytest
from tests.assistant.curation.rows import dialogue

from finetune_api.errors import InvalidData
from finetune_assistant.curation.texts import NewText, spoken
from finetune_trainer.data.dialogues import Document, TokenRow


def test_system_messages_are_left_out() -> None:
    assert spoken(dialogue("Hi", "Ho", system="Be kind.")) == ("Hi", "Ho")
    assert spoken(Document(source="x", row=1, tree="t", text="all")) == ("all",)


def test_tokens_have_no_text() -> None:
    with pytest.raises(InvalidData, match=r"rows\.parquet row 3: the row is tokens, which have no text"):
        spoken(TokenRow(source="rows.parquet", row=3, tree="t", input_ids=(1,), supervised=(True,)))


def test_paths_of_a_tree_are_read_by_what_is_new_in_them() -> None:
    new = NewText()
    paths = [
        dialogue("Q", "A1", tree="t", ids=("q", "a1")),
        dialogue("Q", "A2", "Q2", "A3", tree="t", ids=("q", "a2", "q2", "a3")),
        dialogue("Q", "A2", "Q3", "A4", tree="t", ids=("q", "a2", "q3", "a4")),
        dialogue("Q", "A1", tree="another", ids=("q", "a1")),
        dialogue("Q", "A1", tree="another"),
    ]
    assert [new.of(path) for path in paths] == ["Q\nA1", "A2\nQ2\nA3", "Q3\nA4", "Q\nA1", "Q\nA1"]
