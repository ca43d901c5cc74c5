"""The story of curation: each row with the first reason against it, and nothing asked that need not be."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.assistant.curation.rows import dialogue, sentence

from finetune_assistant.curation.contamination import read_evaluation_sets
from finetune_assistant.curation.filters import Lengths
from finetune_assistant.curation.pipeline import Curation, examined
from finetune_trainer.data.dialogues import Dialogue, Parsed

ENGLISH = "How do I sort a list of words by their length in Python, please?"
GERMAN = "Wie sortiere ich eine Liste von Wörtern nach ihrer Länge in Python?"


def refusals(rows: list[Dialogue], curation: Curation) -> list[str | None]:
    return [found.refusal for found in examined(rows, curation)]


def test_nothing_is_asked_of_rows_where_nothing_was_asked_for() -> None:
    rows = [dialogue(ENGLISH, "Yes"), dialogue(ENGLISH, "Yes")]
    assert [tuple(found) for found in examined(rows, Curation())] == [(row, None, None, ()) for row in rows]


def test_the_first_reason_is_given_and_a_refused_row_is_not_remembered(tmp_path: Path) -> None:
    question = sentence(30, 5)
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"q": question}))
    curation = Curation(
        lengths=Lengths(max_characters=400),
        languages=frozenset(("en",)),
        similarity=0.8,
        evaluation_sets=read_evaluation_sets([file]),
    )
    rows = [
        dialogue(ENGLISH * 10, "Too long"),
        dialogue(GERMAN, "Mit sorted und der Länge als Schlüssel."),
        dialogue(ENGLISH, "Call sorted with the length as its key."),
        dialogue(ENGLISH.lower(), "Call sorted with the length as its key!"),
        dialogue("This is an English sentence, and after it something else: " + question, "Well."),
        dialogue("Ok?", "Ok."),
    ]
    assert refusals(rows, curation) == [
        "more than 400 characters",
        "in another language",
        None,
        "near-duplicate of an earlier row",
        "holds words of an evaluation set",
        None,
    ]


def test_hits_are_listed_where_their_rows_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"q": sentence(30, 5)}))
    curation = Curation(evaluation_sets=read_evaluation_sets([file]), keeps_contaminated=True)
    (found,) = examined([dialogue("x", sentence(30, 5), row=4)], curation)
    assert found.refusal is None
    assert [(hit.row, hit.document, hit.words) for hit in found.hits] == [(4, 1, sentence(30, 5))]


def test_a_question_that_paths_of_a_tree_share_is_found_in_each_of_them(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"q": sentence(30, 5)}))
    curation = Curation(similarity=0.8, evaluation_sets=read_evaluation_sets([file]))
    paths = [dialogue(sentence(30, 5), f"Answer {name}", tree="t", ids=("q", name)) for name in ("one", "two")]
    assert refusals(paths, curation) == ["holds words of an evaluation set"] * 2


def test_languages_can_be_told_without_a_choice() -> None:
    found = list(examined([dialogue(GERMAN, "Ja."), dialogue("Hm?", "Hm.")], Curation(languages=frozenset())))
    assert [(one.refusal, one.language) for one in found] == [(None, "de"), (None, "too short to tell its language")]


def test_tokens_are_counted_some_rows_at_a_time() -> None:
    asked: list[int] = []

    def num_tokens(rows: list[Parsed]) -> list[int]:
        asked.append(len(rows))
        return [row.row for row in rows]

    rows = [dialogue("a", "b", row=number) for number in range(1, 81)]
    found = list(examined(rows, Curation(lengths=Lengths(max_tokens=70)), num_tokens))
    assert sum(one.refusal == "more than 70 tokens" for one in found) == 10
    assert sum(asked) == 80
    assert max(asked) < 80


def test_rows_come_one_by_one() -> None:
    taken: list[int] = []

    def rows() -> Iterator[Dialogue]:
        for number in range(1, 1000):
            taken.append(number)
            yield dialogue("a", sentence(30, number), row=number)

    first = next(examined(rows(), Curation(lengths=Lengths(min_turns=1), similarity=0.8)))
    assert first.item.row == 1
    assert taken == [1]
