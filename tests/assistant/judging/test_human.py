"""Ballots: blind, the same for the same seed, hostile answers stay text; and votes in every form that people send back."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from tests.assistant.judging.answer_files import pair

from finetune_api.errors import InvalidData
from finetune_assistant.judging.answers import Pairs
from finetune_assistant.judging.human import ballots, read_votes, write_ballots

PAIRS = Pairs(pairs=[pair(number, a="ALPHA", b="BETA") for number in range(40)], names=("tuned-model", "base-model"))


def exported(folder: Path, suffix: str, *, seed: int = 1) -> tuple[Path, Path]:
    file, key = folder / f"ballots{suffix}", folder / "key.json"
    write_ballots(file, key, ballots(PAIRS.pairs, seed=seed), PAIRS)
    return file, key


def voted(folder: Path, votes: str, name: str = "ann.csv") -> Path:
    file = folder / name
    file.write_text(votes, encoding="utf-8")
    return file


def test_sides_and_order_are_drawn_by_the_seed() -> None:
    drawn = ballots(PAIRS.pairs, seed=1)
    assert drawn == ballots(PAIRS.pairs, seed=1)
    assert drawn != ballots(PAIRS.pairs, seed=2)
    assert 10 < Counter(one.left_is_a for one in drawn)[True] < 30
    assert [one.pair.key for one in drawn] != [one.key for one in PAIRS.pairs]
    assert {one.pair for one in drawn} == set(PAIRS.pairs)


def test_equal_answers_are_no_ballot() -> None:
    assert ballots([pair(1, a="x", b="x"), pair(2)], seed=0)[0].pair.key == "p2"


@pytest.mark.parametrize("suffix", [".html", ".csv", ".jsonl"])
def test_ballots_name_no_model_and_the_key_is_for_its_owner(tmp_path: Path, suffix: str) -> None:
    file, key = exported(tmp_path, suffix)
    text = file.read_text(encoding="utf-8")
    assert "tuned-model" not in text
    assert "base-model" not in text
    assert "left_is_a" not in text
    assert text.count("ALPHA 7") == 1
    assert "tuned-model" in key.read_text()
    assert key.stat().st_mode & 0o077 == 0


def test_a_table_goes_through_a_spreadsheet_and_back(tmp_path: Path) -> None:
    """As one saves it in Europe: semicolons between columns, columns in another order, one more."""
    file, key = exported(tmp_path, ".csv")
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["vote", "id", "remark", "left", "right", "prompt"], delimiter=";")
    writer.writeheader()
    writer.writerows({**row, "remark": "", "vote": "left" if row["left"].startswith("ALPHA") else "RIGHT "} for row in rows)
    votes = read_votes([voted(tmp_path, "\ufeff" + text.getvalue())], key)
    assert Counter(vote.label for vote in votes) == {"a": 40}
    assert {(vote.rater, vote.names) for vote in votes} == {("ann", ("tuned-model", "base-model"))}


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    pairs = Pairs(pairs=[pair(1, a="=HYPERLINK(1)", b="@SUM(A1)")], names=("x", "y"))
    write_ballots(tmp_path / "b.csv", tmp_path / "key.json", ballots(pairs.pairs, seed=0), pairs)
    (row,) = csv.DictReader(io.StringIO((tmp_path / "b.csv").read_text(encoding="utf-8-sig"), newline=""))
    assert {row["left"], row["right"]} == {"'=HYPERLINK(1) 1", "'@SUM(A1) 1"}


def test_the_page_shows_hostile_answers_as_text_and_runs_our_script_alone(tmp_path: Path) -> None:
    pairs = Pairs(pairs=[pair(1, a="</pre><script>alert(1)</script>", b="b")], names=("x", "y"))
    write_ballots(tmp_path / "b.html", tmp_path / "key.json", ballots(pairs.pairs, seed=0), pairs)
    page = (tmp_path / "b.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)" in page
    assert "script-src 'sha256-" in page


@pytest.mark.parametrize(
    ("columns", "left", "right", "tie"),
    [
        ("vote", "left", "right", "tie"),
        ("vote", "L", "r", "="),
        ("vote", "1", "2", "0"),
        ("rank_left,rank_right", "1,2", "2,1", "1,1"),
        ("score_left,score_right", "8,6", "6.5,7", "5,5"),
    ],
)
def test_votes_ranks_and_scores(tmp_path: Path, columns: str, left: str, right: str, tie: str) -> None:
    _, key = exported(tmp_path, ".csv")
    sides = {number: one["left"] for number, one in json.loads(key.read_text())["ballots"].items()}
    votes = read_votes([voted(tmp_path, f"id,{columns}\n1,{left}\n2,{right}\n3,{tie}\n")], key)
    other = {"a": "b", "b": "a"}
    assert [vote.label for vote in votes] == [sides["1"], other[sides["2"]], "tie"]


def test_json_lines_with_the_names_of_voters(tmp_path: Path) -> None:
    _, key = exported(tmp_path, ".jsonl")
    rows = [{"id": 1, "vote": "left", "rater": "ann"}, {"id": "1", "vote": "tie", "rater": "bob"}, {"id": 2, "vote": ""}]
    votes = read_votes([voted(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "all.jsonl")], key)
    assert [vote.rater for vote in votes] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,vote\n1,better\n", "row 1: vote 'better' is none of left, right and tie"),
        ("id,vote\n99,left\n", "row 1: id '99' is not in the key"),
        ("id,choice\n1,left\n", "row 1 has no `vote`"),
        ("id,rank_left,rank_right\n1,1,\n", "rank_left and rank_right are '1' and ''; write two numbers"),
        ("id,vote\n1,left\n1,right\n", "ann votes twice on the same ballot"),
    ],
)
def test_votes_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    _, key = exported(tmp_path, ".csv")
    with pytest.raises(InvalidData) as refused:
        read_votes([voted(tmp_path, text)], key)
    assert said in str(refused.value)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    file, _ = exported(tmp_path, ".csv")
    for key in (file, tmp_path / "nowhere.json"):
        with pytest.raises(InvalidData, match="is no key of `finetune human export`"):
            read_votes([file], key)
