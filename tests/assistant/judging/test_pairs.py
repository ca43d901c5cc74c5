"""Both orders of each pair: who wins, what flips, what can't be read.

The same judges answer in the test's own process and behind the real client.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.assistant.judging.answer_files import pair
from tests.assistant.judging.judge_server import KEY, Answer, JudgeServer, Raw, completion, first_wins, judge_server, longer_wins, shown

from finetune_assistant.endpoint.budget import Budget
from finetune_assistant.endpoint.client import Endpoint, EndpointSettings, Reply, RequestRefused
from finetune_assistant.endpoint.pace import Pace
from finetune_assistant.judging.answers import Answer as OneAnswer
from finetune_assistant.judging.pairs import Judge, JudgedPair, judge_answers, judge_pairs

Script = Callable[[Sequence[Mapping[str, str]]], Answer]
Judges = Callable[[Script], Judge]


class OwnJudge:
    """Answers in the test's own process, without an endpoint."""

    def __init__(self, answer: Script) -> None:
        self.answer, self.stopped = answer, False

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        answer = self.answer(messages)
        if isinstance(answer, Raw):
            raise RequestRefused(f"the endpoint refuses this request ({answer.status})")
        if isinstance(answer, dict):
            choice = answer["choices"][0]
            return Reply(text=choice["message"]["content"], cut=choice["finish_reason"] == "length", request="r", from_cache=False)
        return Reply(text=answer, cut=False, request="r", from_cache=False)

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


@pytest.fixture(params=["own", "endpoint"])
def judges(request: pytest.FixtureRequest, server: JudgeServer, tmp_path: Path) -> Iterator[Judges]:
    """A judge that answers as a script says: the fake, and a real endpoint."""
    opened: list[Endpoint] = []

    def endpoint(script: Script) -> Judge:
        server.answer = script
        settings = EndpointSettings(base_url=server.url, model="judge", api_key=KEY, retries=0)
        opened.append(Endpoint(settings, tmp_path / "requests", Budget(), Pace()))
        return opened[-1]

    yield OwnJudge if request.param == "own" else endpoint
    for one in opened:
        one.close()


def judged(judge: Judge, *pairs: object) -> list[JudgedPair]:
    found = list(judge_pairs(pairs, judge, concurrency=3))  # type: ignore[arg-type]
    return sorted(found, key=lambda one: one.pair.key)


def test_a_judge_that_likes_the_first_position_gives_no_wins(judges: Judges) -> None:
    found = judged(judges(first_wins), pair(1), pair(2), pair(3))
    assert [one.outcome for one in found] == ["flip"] * 3
    assert [judgement.scores for judgement in found[0].judgements] == [(8.0, 7.0), (7.0, 8.0)]
    assert found[0].difference == 0.0


def test_a_consistent_judge_gives_wins_to_whom_they_belong(judges: Judges) -> None:
    found = judged(judges(longer_wins), pair(1), pair(2, a="x", b="much longer than x"), pair(3, a="same", b="long"))
    assert [one.outcome for one in found] == ["a", "b", "tie"]
    assert [one.difference for one in found] == [4.0, -4.0, 0.0]


def test_both_orders_are_shown(judges: Judges) -> None:
    seen: list[dict[str, str]] = []

    def script(messages: Sequence[Mapping[str, str]]) -> Answer:
        seen.append(shown(messages))
        return "8 7\nBecause."

    judged(judges(script), pair(1, a="alpha", b="beta"))
    assert [(one["answer of assistant 1"], one["answer of assistant 2"]) for one in seen] == [("alpha 1", "beta 1"), ("beta 1", "alpha 1")]


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("6 6", "6 6", "tie"),
        ("7 5", "6 6", "tie"),
        ("7 5", "5 7", "a"),
        ("5 7", "7 5", "b"),
        ("7 5", "7 5", "flip"),
        ("7.5 7", "7 7.5", "a"),
    ],
)
def test_a_win_needs_both_orders(judges: Judges, first: str, second: str, outcome: str) -> None:
    def script(messages: Sequence[Mapping[str, str]]) -> Answer:
        return f"{first if shown(messages)['answer of assistant 1'] == 'alpha 1' else second}\nBecause."

    assert judged(judges(script), pair(1, a="alpha", b="beta"))[0].outcome == outcome


def test_the_same_answers_are_not_shown_to_a_judge(judges: Judges) -> None:
    def script(_messages: Sequence[Mapping[str, str]]) -> Answer:
        raise AssertionError("asked")

    (found,) = judged(judges(script), pair(1, a="same", b="same"))
    assert (found.outcome, found.judgements, found.difference) == ("same", (), 0.0)


def test_a_reply_that_cannot_be_read_is_asked_for_once_more(judges: Judges) -> None:
    def script(messages: Sequence[Mapping[str, str]]) -> Answer:
        return "Both have their merits." if len(messages) == 2 else "6 4\nSorry."

    (found,) = judged(judges(script), pair(1))
    assert [judgement.scores for judgement in found.judgements] == [(6.0, 4.0), (4.0, 6.0)]
    assert [len(judgement.requests) for judgement in found.judgements] == [2, 2]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("I can't compare these.", "no two scores were found"),
        ("9 9", "a score is out of range 1 to 8: 9"),
        ("", "the reply is empty"),
        (completion("8 7", finish_reason="length"), "the reply was cut where the scores are"),
        (completion("Let me see. The first", finish_reason="length"), "the reply was cut before its scores"),
        (Raw(status=400, body="{}"), "refuse"),
    ],
)
def test_what_stays_unreadable_is_kept_with_the_reason(judges: Judges, answer: Answer, problem: str) -> None:
    (found,) = judged(judges(lambda _messages: answer), pair(1))
    assert (found.outcome, found.difference) == ("invalid", None)
    assert problem in found.judgements[0].problem


def test_contradictions_are_kept_with_the_scores(judges: Judges) -> None:
    (found,) = judged(judges(lambda _messages: "7 5\nOverall, assistant 2 is better."), pair(1))
    assert [(judgement.contradiction, judgement.scores) for judgement in found.judgements] == [(True, (7.0, 5.0)), (True, (5.0, 7.0))]


def test_single_scores(judges: Judges) -> None:
    answers = [OneAnswer(key=str(n), turns=(("user", "Why?"),), text="x" * n, model="m") for n in (5, 35, 900)]
    found = {one.answer.key: one.score for one in judge_answers(answers, judges(longer_wins))}
    assert found == {"5": 1.0, "35": 4.0, "900": 8.0}


def test_no_more_pairs_than_asked_for_are_under_way() -> None:
    together, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3, timeout=30)  # passes only where three are under way at once

    def script(messages: Sequence[Mapping[str, str]]) -> Answer:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        gate.wait()
        with lock:
            together -= 1
        return first_wins(messages)

    assert len(judged(OwnJudge(script), *map(pair, range(9)))) == 9
    assert most == 3


def test_an_error_stops_the_judge_and_is_raised() -> None:
    asked: list[int] = []

    def script(messages: Sequence[Mapping[str, str]]) -> Answer:
        asked.append(1)
        if len(asked) > 4:
            raise OSError("gone")
        return first_wins(messages)

    judge = OwnJudge(script)
    found: list[JudgedPair] = []
    with pytest.raises(OSError, match="gone"):
        found.extend(judge_pairs([pair(number) for number in range(50)], judge, concurrency=1))
    assert (len(found), len(asked), judge.stopped) == (2, 5, True)
