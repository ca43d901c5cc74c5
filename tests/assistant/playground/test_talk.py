"""Talks: sides, stops, votes and waiting, with models that follow a script."""

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.assistant.playground.scripted import PLOT, TOO_LONG, scripted

from finetune_api.errors import InvalidInput
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.judging.votes import Vote
from finetune_assistant.playground.line import Line
from finetune_assistant.playground.talk import Choice, Talk
from finetune_assistant.playground.talks import Talks
from finetune_assistant.playground.views import View
from finetune_assistant.playground.voices import NOTHING_ASKED, Settings

LEFT_IS_TUNED, LEFT_IS_BASE = 1, 0  # seeds that draw these sides


def talk_of_two(*, seed: int = LEFT_IS_TUNED, go: threading.Event | None = None, **changes: Any) -> Talk:
    return Talk([scripted("tuned", go=go), scripted("base", go=go, **changes)], Line(), random.Random(seed))


def last(views: Iterator[View]) -> View:
    return list(views)[-1]


def texts(view: View) -> list[list[str]]:
    return [[said.text for _, said in column.turns] for column in view.columns]


def kept_votes(talk: Talk, choice: Choice) -> Vote:
    votes: list[Vote] = []
    talk.vote(choice, "ann", votes.append)
    [vote] = votes
    return vote


def test_one_model_is_named_and_streams() -> None:
    go = threading.Event()
    talk = Talk([scripted("tuned", go=go)], Line(), random.Random())
    views = talk.ask("Wait for it", NOTHING_ASKED)
    while texts(view := next(views)) != [["I "]]:
        assert view.busy
    go.set()
    view = last(views)
    assert texts(view) == [["I am tuned. You said: Wait for it"]]
    assert view.columns[0].name == "tuned"
    assert not view.busy


@pytest.mark.parametrize(("seed", "names"), [(LEFT_IS_TUNED, ["tuned", "base"]), (LEFT_IS_BASE, ["base", "tuned"])])
def test_sides_are_drawn_and_hidden_until_the_vote(seed: int, names: list[str]) -> None:
    talk = talk_of_two(seed=seed)
    view = last(talk.ask("Hello", NOTHING_ASKED))
    assert texts(view) == [[f"I am {name}. You said: Hello"] for name in names]
    assert [column.name for column in view.columns] == ["", ""]
    assert view.no_vote is None
    kept_votes(talk, "left")
    assert [column.name for column in talk.view().columns] == names


@pytest.mark.parametrize(
    ("seed", "choice", "label"),
    [
        (LEFT_IS_TUNED, "left", "a"),
        (LEFT_IS_TUNED, "right", "b"),
        (LEFT_IS_BASE, "left", "b"),
        (LEFT_IS_BASE, "right", "a"),
        (LEFT_IS_BASE, "tie", "tie"),
        (LEFT_IS_BASE, "both bad", "tie"),
    ],
)
def test_a_vote_names_the_model_and_not_the_side(seed: int, choice: Choice, label: str) -> None:
    talk = talk_of_two(seed=seed)
    last(talk.ask("Hello", Settings(system="Be brief. ")))
    vote = kept_votes(talk, choice)
    assert (vote.label, vote.names, vote.rater) == (label, ("tuned", "base"), "ann")
    assert vote.pair.answer_a == "I am tuned. Be brief. You said: Hello"
    assert vote.pair.turns == (("system", "Be brief. "), ("user", "Hello"))


def test_no_second_vote_and_none_that_was_not_kept() -> None:
    def full(_vote: Vote) -> None:
        raise OSError("the disk is full")

    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    with pytest.raises(OSError, match="full"):
        talk.vote("left", "ann", full)
    assert talk.view().columns[0].name == ""
    kept_votes(talk, "left")
    with pytest.raises(InvalidInput, match="The names are shown"):
        kept_votes(talk, "right")


def test_models_that_read_different_answers_are_not_voted_on() -> None:
    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    view = last(talk.ask("And now?", NOTHING_ASKED))
    assert view.no_vote is not None
    assert "new talk" in view.no_vote
    with pytest.raises(InvalidInput, match="new talk"):
        kept_votes(talk, "left")


def test_models_that_answered_alike_may_be_voted_on_later() -> None:
    talk = talk_of_two()
    last(talk.ask("Plot it", NOTHING_ASKED))
    assert last(talk.ask("Hello", NOTHING_ASKED)).no_vote is None
    assert kept_votes(talk, "left").pair.turns == (("user", "Plot it"), ("assistant", PLOT.strip()), ("user", "Hello"))


def test_a_model_that_fails_says_why_and_the_other_answers() -> None:
    view = last(talk_of_two(fails=True).ask("Hello", NOTHING_ASKED))
    tuned, base = (column.turns[-1][1] for column in view.columns)
    assert tuned.answer is not None
    assert base.failure == "RuntimeError: out of memory"
    assert view.no_vote == "An answer is missing or was stopped; ask again to vote."


def test_a_question_that_does_not_fit_leaves_the_talk_as_it_was() -> None:
    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    view = last(talk.ask("x" * (TOO_LONG + 1), NOTHING_ASKED))
    assert [column.turns[-1][1].failure for column in view.columns] == ["the question doesn't fit"] * 2
    assert texts(last(talk.retry(NOTHING_ASKED)))[0] == ["I am tuned. You said: Hello", ""]


def test_retry_puts_new_answers_in_place_of_the_last() -> None:
    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    view = last(talk.retry(Settings(system="Well. ", sampling=Sampling(temperature=1.0))))
    assert texts(view)[0] == ["I am tuned. Well. You said: Hello"]
    assert view.columns[0].turns[0][1].answer is not None
    assert view.columns[0].turns[0][1].answer.prompt_tokens == 2  # "Well." and "Hello": the first answer isn't read


def test_other_sampling_goes_on_with_the_same_talk() -> None:
    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    view = last(talk.ask("Again", Settings(sampling=Sampling(temperature=1.0))))
    answer = view.columns[0].turns[1][1].answer
    assert answer is not None
    assert answer.prompt_tokens == 8


def test_stopping_keeps_what_was_written_and_asks_nobody_else() -> None:
    talk = talk_of_two()
    views = talk.ask("Wait for it", NOTHING_ASKED)
    while not next(views).columns[0].turns[-1][1].text:
        pass
    talk.stop()
    view = last(views)
    left, right = (column.turns[-1][1] for column in view.columns)
    assert left.text == "I"
    assert left.answer is not None
    assert left.answer.stopped == "interrupted"
    assert right.failure == "stopped before it was asked"
    assert view.no_vote == "An answer is missing or was stopped; ask again to vote."


def test_one_question_at_a_time() -> None:
    talk = talk_of_two()
    views = talk.ask("Wait for it", NOTHING_ASKED)
    next(views)
    for view in (last(talk.ask("Hello", NOTHING_ASKED)), talk.reset()):
        assert view.notice == "An answer is being written; stop it first."
        assert len(view.columns[0].turns) <= 1
    talk.stop()
    last(views)
    assert texts(talk.reset()) == [[], []]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_nothing_is_asked_without_a_question(question: str) -> None:
    talk = talk_of_two()
    assert last(talk.ask(question, NOTHING_ASKED)).notice == "Write a question first."
    assert last(talk.retry(NOTHING_ASKED)).notice == "There is no question to answer again; ask one."
    assert texts(talk.view()) == [[], []]


def test_another_browser_waits_and_is_told() -> None:
    go = threading.Event()
    talks = Talks([scripted("tuned", go=go)])
    first = talks.of("one").ask("Wait for it", NOTHING_ASKED)
    while not next(first).columns[0].turns:
        pass
    second = talks.of("two").ask("Hello", NOTHING_ASKED)
    assert next(second).notice == "The model answers somebody else; 1 before you."
    go.set()
    assert texts(last(second)) == [["I am tuned. You said: Hello"]]
    assert texts(last(first)) == [["I am tuned. You said: Wait for it"]]


def test_who_waits_may_stop() -> None:
    go = threading.Event()
    talks = Talks([scripted("tuned", go=go)])
    first = talks.of("one").ask("Wait for it", NOTHING_ASKED)
    while not next(first).columns[0].turns:
        pass
    second = talks.of("two").ask("Hello", NOTHING_ASKED)
    next(second)
    talks.of("two").stop()
    view = last(second)
    assert (view.notice, texts(view)) == ("Stopped before it was asked.", [[]])
    talks.close()
    assert texts(last(first)) == [["I"]]


def test_a_browser_that_goes_away_leaves_nothing_locked() -> None:
    talks = Talks([scripted("tuned")])
    abandoned = talks.of("one").ask("Wait for it", NOTHING_ASKED)
    while not next(abandoned).columns[0].turns:
        pass
    del abandoned
    talks.leave("one")
    talks.leave("nobody")
    assert texts(last(talks.of("two").ask("Hello", NOTHING_ASKED))) == [["I am tuned. You said: Hello"]]


def test_the_talk_that_nobody_touched_for_longest_is_forgotten_and_that_is_said() -> None:
    talks = Talks([scripted("tuned")], most=2)
    for browser in ("one", "two", "one", "three"):
        last(talks.of(browser).ask("Hello", NOTHING_ASKED))
    assert len(talks.of("one").view().columns[0].turns) == 2
    view = last(talks.of("two").ask("Hello", NOTHING_ASKED))
    assert view.notice == "Your earlier talk is forgotten: more than 2 were open."
    assert len(view.columns[0].turns) == 1


def test_names_may_be_shown_without_a_vote() -> None:
    talk = talk_of_two()
    last(talk.ask("Hello", NOTHING_ASKED))
    assert [column.name for column in talk.show_names().columns] == ["tuned", "base"]
    assert talk.view().no_vote == "The names are shown; a new talk can be voted on."
    assert talk.reset().columns[0].name == ""
