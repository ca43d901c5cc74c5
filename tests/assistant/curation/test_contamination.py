"""Words that rows share with evaluation sets: every hit, with its place, in files of any form."""

import gzip
import json
from pathlib import Path

import pytest
from tests.assistant.curation.rows import sentence

from finetune_api.errors import InvalidData
from finetune_assistant.curation.contamination import EvaluationSets, Hit, read_evaluation_sets
from finetune_assistant.curation.words import word_hashes

QUESTION = sentence(20, 1)


def hits(sets: EvaluationSets, text: str) -> list[Hit]:
    return sets.hits("rows.jsonl", 7, text, word_hashes(text))


def test_thirteen_words_are_a_hit_and_twelve_are_none(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"id": 1, "question": {"text": ["short", QUESTION]}}) + "\n")
    sets = read_evaluation_sets([file])
    found = QUESTION.split()
    (hit,) = hits(sets, f"Before it. {' '.join(found[2:15]).upper()}, and after")
    assert hit == Hit(source="rows.jsonl", row=7, evaluation_set=str(file), document=1, words=" ".join(found[2:15]))
    assert hits(sets, f"Before it. {' '.join(found[2:14])}, and after") == []
    assert hits(sets, "few words") == []
    (whole,) = hits(sets, f"one {' '.join(found[:14])} two {QUESTION}")  # the longest run
    assert whole.words == QUESTION


def test_each_document_and_set_that_is_met_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.jsonl.gz"
    first.write_text(f"question,answer\nshort,none\n{sentence(15, 3)},yes\n")
    second.write_bytes(gzip.compress(f"{json.dumps({'text': sentence(15, 4)})}\n{json.dumps({'text': QUESTION})}\n".encode()))
    sets = read_evaluation_sets([first, second])
    assert (sets.documents, sets.short) == ((2, 2), (1, 0))
    found = hits(sets, f"{QUESTION} and {sentence(15, 3)}")
    assert [(hit.evaluation_set, hit.document) for hit in found] == [(str(second), 2), (str(first), 2)]


def test_parquet_and_arrow(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["short", QUESTION], "choices": [["a"], ["b"]]})
    pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
    with pyarrow.ipc.new_stream(tmp_path / "set.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("set.parquet", "set.arrow"):
        (hit,) = hits(read_evaluation_sets([tmp_path / name]), QUESTION)
        assert hit.document == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.jsonl", None, "there is no such file"),
        ("set.txt", "words", "no evaluation set of a known format; convert it to one of .jsonl"),
        ("set.jsonl", '{"question": "too short"}\n', "none of its 1 documents has a text of 13 words"),
        ("set.jsonl", '{"question": "a"}\n{"question\n', "row 2: "),
        ("set.jsonl", "", "the file is empty"),
        ("set.parquet", "nothing like it", "can't be read as parquet"),
    ],
)
def test_files_that_are_no_evaluation_sets(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidData) as refused:
        read_evaluation_sets([tmp_path / name])
    assert said in str(refused.value)
    assert name in str(refused.value)


@pytest.mark.real_data
def test_humaneval_is_found_in_a_row_that_quotes_it(test_data: Path) -> None:
    sets = read_evaluation_sets([test_data / "HumanEval.jsonl.gz"])
    assert sets.documents == (164,)
    with gzip.open(test_data / "HumanEval.jsonl.gz", "rt") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    found = hits(sets, f"Please complete this:\n{prompts[10]}")
    assert [hit.document for hit in found] == [11]
    assert hits(sets, sentence(500)) == []
