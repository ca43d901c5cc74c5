"""Votes as numbers: majorities, agreement of people, and of judges with them."""

import json
from pathlib import Path

import pytest
from tests.assistant.judging.answer_files import pair

from finetune_api.errors import InvalidData
from finetune_assistant.judging.folder import PairRun
from finetune_assistant.judging.pairs import JudgedPair, Judgement
from finetune_assistant.judging.preferences import preferences
from finetune_assistant.judging.summary import Label
from finetune_assistant.judging.votes import Vote, read_vote_rows, vote_row, vote_summary

NAMES = ("tuned", "base")
SCORES: dict[str, tuple[float, float] | None] = {"a": (7, 3), "b": (2, 6), "tie": (5, 5), "invalid": None}


def votes(rater: str, *labels: Label) -> list[Vote]:
    return [Vote(pair=pair(number), label=label, rater=rater, names=NAMES) for number, label in enumerate(labels)]


def judge(*labels: str, name: str = "judge") -> PairRun:
    """A judge that says so of the pairs 0, 1, ..."""
    found = []
    for number, label in enumerate(labels):
        judgement = Judgement(order="ab", scores=SCORES[label], problem="", contradiction=False, reply="", requests=())
        found.append(JudgedPair(pair=pair(number), judgements=(judgement, judgement)))
    return PairRun(judge=name, names=NAMES, pairs=found, total=len(found))


def test_the_majority_of_each_pair_counts() -> None:
    summary = vote_summary([*votes("ann", "a", "a", "b", "tie"), *votes("bob", "a", "b", "b", "tie"), *votes("eve", "a", "a", "b")])
    assert summary["outcomes"] == {"a": 2, "b": 1, "tie": 1}
    assert (summary["winRate"]["wins"], summary["winRate"]["pairs"]) == (2, 4)
    assert summary["votes"] == {"ann": 4, "bob": 4, "eve": 3}


def test_people_are_compared_on_the_pairs_that_both_voted_on() -> None:
    summary = vote_summary([*votes("ann", "a", "a", "b", "tie"), *votes("bob", "a", "b", "b")])
    (found,) = summary["people"]
    assert (found["raters"], found["pairs"], found["agreement"]) == (["ann", "bob"], 3, pytest.approx(2 / 3))
    assert found["kappa"] == pytest.approx(0.4)


def test_each_judge_is_compared_with_the_majority() -> None:
    summary = vote_summary(votes("ann", "a", "b", "a", "tie"), [judge("a", "b", "invalid", "a"), judge("b", name="other")])
    one, other = summary["judges"]
    assert (one["judge"], one["pairs"], one["agreement"]) == ("judge", 3, pytest.approx(2 / 3))
    assert one["withoutTies"] == {"pairs": 2, "agreement": 1.0, "kappa": 1.0}
    assert (other["judge"], other["pairs"], other["agreement"]) == ("other", 1, 0.0)


def test_votes_with_models_exchanged_are_turned_round() -> None:
    turned = pair(0, a="short", b="a longer answer")
    given = [*votes("ann", "a"), Vote(pair=turned, label="b", rater="bob", names=("base", "tuned"))]
    summary = vote_summary(given)
    assert (summary["outcomes"]["a"], summary["people"][0]["agreement"]) == (1, 1.0)
    with pytest.raises(InvalidData, match="votes on tuned and base and on x and y can't be counted together"):
        vote_summary([*votes("ann", "a"), Vote(pair=pair(1), label="a", rater="bob", names=("x", "y"))])


def test_votes_go_through_json_lines(tmp_path: Path) -> None:
    given = votes("ann", "a", "tie")
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(vote_row(vote)) + "\n" for vote in given))
    assert read_vote_rows(file) == given


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "row 1 is no vote"),
        ("[]", "row 1 is no vote: it is no JSON object"),
        ('{"vote": "a", "prompt": "x", "answer_a": "y"}', "row 1 is no vote: it lacks 'answer_b'"),
        ('{"vote": "left", "prompt": "x", "answer_a": "y", "answer_b": "z"}', "vote 'left' is none of a, b and tie"),
    ],
)
def test_rows_that_are_no_votes(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(InvalidData) as refused:
        read_vote_rows(file)
    assert said in str(refused.value)


def test_preferences_have_the_words_of_trl() -> None:
    found = preferences(votes("ann", "a", "b", "tie"), [])
    assert found.rows[0] == {
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "chosen": [{"role": "assistant", "content": "a longer answer 0"}],
        "rejected": [{"role": "assistant", "content": "short 0"}],
    }
    assert found.rows[1]["chosen"][0]["content"] == "short 1"
    assert (len(found.rows), found.left_out) == (2, {"no winner": 1})


def test_people_go_before_judges_and_the_majority_before_one() -> None:
    judges = [judge("a", "a", "b", "invalid"), judge("a", "b", "b"), judge("a", "b", "a")]
    found = preferences(votes("ann", "b"), judges)
    assert [row["chosen"][0]["content"] for row in found.rows] == ["short 0", "short 1", "short 2"]
    assert found.left_out == {"no readable judgement": 1}


def test_an_empty_answer_teaches_nothing() -> None:
    empty = Vote(pair=pair(0), label="a", rater="ann", names=NAMES)
    given = Vote(pair=type(empty.pair)(key="k", turns=(("user", "x"),), answer_a="good", answer_b=""), label="a", rater="ann", names=NAMES)
    assert preferences([given], []).left_out == {"an answer is empty": 1}
