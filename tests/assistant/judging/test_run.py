"""A judge's folder: what it holds, how it goes on after any end, and the numbers in it."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.judging.answer_files import pair
from tests.assistant.judging.judge_server import KEY, Answer, JudgeServer, Raw, completion, first_wins, judge_server, longer_wins, shown

from finetune_api.errors import BudgetSpent, EndpointFailed, Interrupted, InvalidData, RunConflict
from finetune_assistant.endpoint.budget import Budget
from finetune_assistant.endpoint.client import EndpointSettings
from finetune_assistant.judging.answers import Answer as OneAnswer
from finetune_assistant.judging.answers import Pair, Pairs
from finetune_assistant.judging.folder import read_pair_run
from finetune_assistant.judging.run import NothingReadable, Plan, run_pairs, run_scores

TEN = Pairs(
    pairs=[pair(number, kind="write" if number < 7 else "review", language="python") for number in range(10)], names=("tuned", "base")
)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


def plan(server: JudgeServer, *, model: str = "judge", budget: Budget | None = None, concurrency: int = 2, **settings: Any) -> Plan:
    given = {"base_url": server.url, "model": model, "api_key": KEY, "retries": 1, "backoff_seconds": 0.01, **settings}
    return Plan(settings=EndpointSettings(**given), budget=budget or Budget(), concurrency=concurrency)


def judged(folder: Path, plan: Plan, pairs: Pairs = TEN, against: Sequence[Path] = ()) -> dict[str, Any]:
    return run_pairs(pairs, folder, plan, against=against, on_progress=lambda _done, _total: None)


def asked_for(server: JudgeServer) -> list[str]:
    return [json.dumps(request["messages"]) for request in server.requests]


def test_a_consistent_judge(server: JudgeServer, tmp_path: Path) -> None:
    summary = judged(tmp_path / "judged", plan(server))
    assert summary["outcomes"] == {"a": 10, "b": 0, "tie": 0, "flip": 0, "same": 0, "invalid": 0}
    assert summary["winRate"] == {"wins": 10, "pairs": 10, "value": 1.0, "low": pytest.approx(0.7225, abs=1e-4), "high": 1.0}
    assert summary["scoreDifference"] == {"value": 4.0, "low": 4.0, "high": 4.0}
    assert summary["byKind"] == {"write": {**summary["byKind"]["write"], "wins": 7, "pairs": 7}, "review": summary["byKind"]["review"]}
    assert (summary["positionFlips"]["value"], summary["firstPreferred"]["value"]) == (0.0, 0.5)
    assert summary["requests"] == {"sent": 20, "fromCache": 0, "retried": 0}
    assert summary["tokens"] == 20 * 120
    assert json.loads((tmp_path / "judged/summary.json").read_text()) == summary


def test_a_judge_that_likes_the_first_position(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = first_wins
    summary = judged(tmp_path / "judged", plan(server))
    assert summary["outcomes"]["flip"] == 10
    assert (summary["winRate"]["value"], summary["winRateOfB"]["value"]) == (0.0, 0.0)
    assert (summary["positionFlips"]["value"], summary["firstPreferred"]["value"], summary["oneOrderOnly"]["value"]) == (1.0, 1.0, 1.0)
    assert summary["tiesAsHalf"]["value"] == 0.5


def test_contradictions_and_unreadable_replies_are_counted(server: JudgeServer, tmp_path: Path) -> None:
    def answer(messages: Sequence[Mapping[str, str]]) -> Answer:
        request = shown(messages)["request"]
        if request == "Question 0?":
            return "No idea."
        first = len(shown(messages)["answer of assistant 1"]) > len(shown(messages)["answer of assistant 2"])
        if request == "Question 1?":
            return f"{'7 5' if first else '5 7'}\nAssistant {2 if first else 1} is better."
        return longer_wins(messages)

    server.answer = answer
    summary = judged(tmp_path / "judged", plan(server))
    assert summary["unreadable"] == {"no two scores were found": 2}
    assert (summary["contradictions"], summary["outcomes"]["invalid"]) == (2, 1)
    assert (summary["winRate"]["wins"], summary["winRate"]["pairs"]) == (9, 9)
    assert summary["winRateWithoutContradictions"]["pairs"] == 8


def test_the_results_are_in_the_order_of_the_pairs_and_read_back(server: JudgeServer, tmp_path: Path) -> None:
    judged(tmp_path / "judged", plan(server, concurrency=4))
    run = read_pair_run(tmp_path / "judged")
    assert [one.pair for one in run.pairs] == list(TEN.pairs)
    assert (run.judge, run.names, {one.outcome for one in run.pairs}) == ("judge", ("tuned", "base"), {"a"})
    request = json.loads((tmp_path / "judged/requests" / f"{run.pairs[0].judgements[0].requests[0]}.json").read_text())
    assert shown(request["messages"])["answer of assistant 1"] == TEN.pairs[0].answer_a


def test_an_endpoint_that_fails_in_the_middle_costs_nothing_twice(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda messages: longer_wins(messages) if len(server.requests) <= 7 else Raw(status=500, body="{}")
    with pytest.raises(EndpointFailed, match=r"3 of 10 are judged, and all replies are kept in .*: run the command again"):
        judged(tmp_path / "judged", plan(server, concurrency=1))
    assert len(read_pair_run(tmp_path / "judged").pairs) == 3
    assert "3 of 10 prompts" in (tmp_path / "judged/report.html").read_text()
    answered = asked_for(server)[:7]
    server.requests.clear()
    server.answer = longer_wins
    summary = judged(tmp_path / "judged", plan(server))
    assert not set(answered) & set(asked_for(server))
    assert len(asked_for(server)) == len(set(asked_for(server))) == 13
    assert (summary["requests"]["fromCache"], summary["outcomes"]["a"]) == (7, 10)


def test_the_budget_stops_it_and_more_of_it_goes_on(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda messages: completion(str(longer_wins(messages)), prompt_tokens=700, completion_tokens=20)
    with pytest.raises(BudgetSpent, match=r"of 4,000 tokens are spent.*raise --budget-tokens; 2 of 10 are judged"):
        judged(tmp_path / "judged", plan(server, budget=Budget(tokens=4000), concurrency=1))
    spent = json.loads((tmp_path / "judged/summary.json").read_text())["tokens"]
    assert spent == 720 * len(server.requests) <= 4000
    with pytest.raises(BudgetSpent):
        judged(tmp_path / "judged", plan(server, budget=Budget(tokens=4000), concurrency=1))
    assert json.loads((tmp_path / "judged/summary.json").read_text())["tokens"] == spent
    assert judged(tmp_path / "judged", plan(server))["tokens"] == 20 * 720
    assert len(asked_for(server)) == 20


def test_control_c_keeps_what_is_done(server: JudgeServer, tmp_path: Path) -> None:
    def pressed(done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped; 4 of 10 are judged, and all replies are kept"):
        run_pairs(TEN, tmp_path / "judged", plan(server, concurrency=1), on_progress=pressed)
    assert judged(tmp_path / "judged", plan(server))["outcomes"]["a"] == 10
    assert len(asked_for(server)) == len(set(asked_for(server))) == 20


def test_a_judge_that_cannot_be_read_at_all_is_a_failure(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda _messages: "I am a teapot."
    with pytest.raises(NothingReadable, match="mostly: no two scores were found"):
        judged(tmp_path / "judged", plan(server))


def test_the_key_is_nowhere_in_the_folder(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda _messages: f"8 7\nI was asked with {KEY}."
    judged(tmp_path / "judged", plan(server))
    files = [path for path in (tmp_path / "judged").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"run.json", "pairs.jsonl", "summary.json", "report.html"}
    assert [path for path in files if KEY in path.read_text()] == []


def test_two_judges_are_compared(server: JudgeServer, tmp_path: Path) -> None:
    judged(tmp_path / "one", plan(server))
    exchanged = Pairs(
        pairs=[Pair(key=one.key, turns=one.turns, answer_a=one.answer_b, answer_b=one.answer_a) for one in TEN.pairs],
        names=("base", "tuned"),
    )
    judged(tmp_path / "exchanged", plan(server), pairs=exchanged)

    def contrary(messages: Sequence[Mapping[str, str]]) -> Answer:
        if shown(messages)["request"] in ("Question 0?", "Question 1?"):
            return "3 7\nx" if str(longer_wins(messages)).startswith("7") else "7 3\nx"
        return longer_wins(messages)

    server.answer = contrary
    summary = judged(tmp_path / "two", plan(server, model="other"), against=[tmp_path / "one", tmp_path / "exchanged"])
    for compared in summary["against"]:
        assert (compared["judges"], compared["pairs"], compared["agreement"]) == (["other", "judge"], 10, 0.8)
        assert [rate["wins"] for rate in compared["winRates"]] == [8, 10]
    page = (tmp_path / "two/report.html").read_text()
    assert page.count("<svg") == 3
    assert "other against judge" in page


def test_a_folder_of_other_work_is_refused(server: JudgeServer, tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    judged(folder, plan(server))
    with pytest.raises(RunConflict, match="differs in judge"):
        judged(folder, plan(server, model="other"))
    with pytest.raises(RunConflict, match="differs in answers, total"):
        judged(folder, plan(server), pairs=Pairs(pairs=TEN.pairs[:3], names=TEN.names))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(RunConflict, match="no folder of `finetune judge`"):
        judged(tmp_path / "full", plan(server))
    with pytest.raises(RunConflict, match="no folder of `finetune judge`"):
        judged(tmp_path / "full/thesis.txt", plan(server))
    with pytest.raises(InvalidData, match="no folder of `finetune judge` with two files"):
        judged(tmp_path / "third", plan(server), against=[tmp_path / "full"])
    assert not (tmp_path / "third").exists()


def test_a_folder_in_use_is_refused(server: JudgeServer, tmp_path: Path) -> None:
    release = threading.Event()

    def answer(messages: Sequence[Mapping[str, str]]) -> Answer:
        release.wait(timeout=60)
        return longer_wins(messages)

    server.answer = answer
    first = threading.Thread(target=judged, args=(tmp_path / "judged", plan(server)))
    first.start()
    try:
        while not server.requests:
            release.wait(timeout=0.01)
        with pytest.raises(RunConflict, match="in use by process"):
            judged(tmp_path / "judged", plan(server))
    finally:
        release.set()
        first.join()


def answers(model: str, length: int) -> list[OneAnswer]:
    return [OneAnswer(key=str(n), turns=(("user", f"{n}?"),), text="x" * (length + n), model=model) for n in range(4)]


def test_single_scores_of_two_files(server: JudgeServer, tmp_path: Path) -> None:
    files = [answers("tuned", 50), answers("base", 20)]
    summary = run_scores(files, ["tuned", "base"], tmp_path / "scores", plan(server), on_progress=lambda _done, _total: None)
    assert [(one["model"], one["score"]["value"], one["scored"]) for one in summary["models"]] == [("tuned", 6.0, 4), ("base", 3.0, 4)]
    assert summary["scoreDifference"] == {"value": 3.0, "low": 3.0, "high": 3.0}
    rows = [json.loads(line) for line in (tmp_path / "scores/scores.jsonl").read_text().splitlines()]
    assert [(row["file"], row["answer"]["key"], row["score"]) for row in rows][:2] == [(0, "0", 6.0), (0, "1", 6.0)]
    assert "Scores of tuned and base" in (tmp_path / "scores/report.html").read_text()


def test_the_report_shows_hostile_text_as_text(server: JudgeServer, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    server.answer = lambda messages: f"{str(longer_wins(messages)).split(chr(10))[0]}\n{hostile}"
    pairs = Pairs(pairs=[pair(1, a=hostile + " long", b=hostile)], names=(hostile, "base"))
    judged(tmp_path / "judged", plan(server, model=hostile), pairs=pairs)
    page = (tmp_path / "judged/report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in page
