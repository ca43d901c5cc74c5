"""What rows are like, counted by hand."""

from tests.assistant.curation.rows import TOOL, dialogue

from finetune_assistant.curation.pipeline import Examined
from finetune_assistant.curation.statistics import Statistics
from finetune_trainer.data.dialogues import Document, TokenRow


def test_rows_counted_by_hand() -> None:
    statistics = Statistics()
    first = dialogue("12", "1234", "1", "123", system="12345")
    unlearnt = first.messages[2]._replace(learnt=False)
    rows = [
        first._replace(messages=(*first.messages[:2], unlearnt, *first.messages[3:])),
        dialogue("1", "12")._replace(tools=(TOOL,), source="other.jsonl"),
        Document(source="other.jsonl", row=2, tree="t", text="12345"),
        TokenRow(source="other.jsonl", row=3, tree="t", input_ids=(1, 2), supervised=(False, True)),
    ]
    for row in rows:
        statistics.add(Examined(row, language="de"))
    described = statistics.described({"wrong row": 2})
    assert described["rows"] == 4
    assert described["sources"] == {"rows.jsonl": 1, "other.jsonl": 3}
    assert described["kinds"] == {"dialogues": 2, "documents": 1, "rows of tokens": 1}
    assert described["turns"] == {"mean": 3.0, "median": 2, "p95": 4, "largest": 4, "total": 6}
    assert described["characters"]["total"] == 15 + 3 + 5
    assert {role: of["number"] for role, of in described["messages"].items()} == {"system": 1, "user": 3, "assistant": 3}
    assert described["messages"]["assistant"]["characters"]["total"] == 9
    assert (described["withSystem"], described["withTools"]) == (1, 1)
    assert described["supervisedShareOf"] == "characters"
    assert described["supervisedShare"] == round((3 + 2 + 5) / 23, 4)
    assert described["languages"] == {"de": 4}
    assert described["notUsed"] == {"wrong row": 2}
    assert "tokens" not in described


def test_tokens_say_what_is_learnt_where_they_are_counted() -> None:
    statistics = Statistics()
    statistics.add(Examined(dialogue("1", "123")))
    statistics.add_tokens(10, 4)
    statistics.add_tokens(30, 6)
    described = statistics.described({})
    assert described["tokens"] == {"mean": 20.0, "median": 10, "p95": 30, "largest": 30, "total": 40, "supervised": 10}
    assert (described["supervisedShare"], described["supervisedShareOf"]) == (0.25, "tokens")
