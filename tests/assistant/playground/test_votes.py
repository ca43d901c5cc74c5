"""The file of votes: what other commands read, whole lines, and files that are none."""

import json
import threading
from pathlib import Path

import pytest

from finetune_api.errors import InvalidData, RunFailed
from finetune_assistant.judging.answers import Pair
from finetune_assistant.judging.preferences import preferences
from finetune_assistant.judging.votes import Vote, read_vote_rows, vote_summary
from finetune_assistant.playground.votes import VoteFile

NAMES = ("tuned", "base")
TURNS = (("system", "Be brief."), ("user", "Hi \u00e4 \ud83d"))


def vote(label: str = "a", *, names: tuple[str, str] = NAMES, key: str = "playground 1") -> Vote:
    return Vote(pair=Pair(key=key, turns=TURNS, answer_a="one", answer_b="other"), label=label, rater="ann", names=names)  # type: ignore[arg-type]


def test_other_commands_read_the_votes(tmp_path: Path) -> None:
    votes = VoteFile(path=tmp_path / "votes.jsonl", names=NAMES)
    votes.append(vote("a"))
    votes.append(vote("tie"), both_bad=True)
    votes.check()
    found = read_vote_rows(votes.path)
    assert [each.label for each in found] == ["a", "tie"]
    assert vote_summary(found[:1])["winRate"]["wins"] == 1
    [row] = preferences(found[:1], []).rows
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert row["chosen"] == [{"role": "assistant", "content": "one"}]
    assert [json.loads(line).get("both_bad") for line in votes.path.read_text().splitlines()] == [None, True]


def test_a_line_that_was_left_open_is_closed(tmp_path: Path) -> None:
    votes = VoteFile(path=tmp_path / "votes.jsonl", names=NAMES)
    votes.append(vote())
    votes.path.write_text(votes.path.read_text().rstrip("\n"))
    votes.append(vote("b"))
    assert [each.label for each in read_vote_rows(votes.path)] == ["a", "b"]


def test_many_voters_leave_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"

    def vote_often() -> None:
        for _ in range(20):
            VoteFile(path=path, names=NAMES).append(vote())

    threads = [threading.Thread(target=vote_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_vote_rows(path)) == 80


def test_votes_on_other_models_or_none_at_all_are_left_alone(tmp_path: Path) -> None:
    votes = VoteFile(path=tmp_path / "votes.jsonl", names=NAMES)
    votes.check()
    VoteFile(path=votes.path, names=("x", "base")).append(vote(names=("x", "base")))
    with pytest.raises(InvalidData, match="holds votes on x and base, and these are on tuned and base; give another file"):
        votes.check()
    votes.path.write_text("import os\n")
    with pytest.raises(InvalidData, match="row 1 is no vote"):
        votes.check()
    with pytest.raises(InvalidData, match="there is no folder"):
        VoteFile(path=tmp_path / "nowhere" / "votes.jsonl", names=NAMES).check()


def test_a_vote_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"the vote can't be kept \(Is a directory\)"):
        VoteFile(path=tmp_path, names=NAMES).append(vote())
    # Linux's device that is always full.
    with pytest.raises(RunFailed, match="No space left on device"):
        VoteFile(path=Path("/dev/full"), names=NAMES).append(vote())
