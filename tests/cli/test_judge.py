"""`finetune judge`, `finetune human` and `finetune data preferences` as typed, with a judge on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.assistant.judging.answer_files import answers_file
from tests.assistant.judging.judge_server import KEY, JudgeServer, Raw, completion, first_wins, judge_server, longer_wins
from tests.cli.conftest import Finetune
from tests.conftest import ROOT

LONG, SHORT = [f"a longer answer {number}" for number in range(6)], [f"short {number}" for number in range(6)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """A judge where the variables of OpenAI's client say, and its key."""
    with judge_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Answers of a model that says more, and of one that says less."""
    return answers_file(tmp_path / "tuned.jsonl", LONG), answers_file(tmp_path / "base.jsonl", SHORT)


def test_pairs_as_text_and_as_json(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    code, out, _ = finetune("judge", *files, "--model", "judge", "--output", "judged")
    assert code == 0
    assert "tuned wins 6 of 6 against base: 100.0 % (95 %: 61.0 to 100.0 %)" in out
    assert "base wins 0, ties 0, flips 0, unreadable 0" in out
    assert "12 requests sent, 0 answered from before; 1,440 tokens" in out
    code, out, err = finetune("judge", *files, "--model", "judge", "--output", "judged", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["requests"] == {"sent": 0, "fromCache": 12, "retried": 0}
    assert server.keys == [f"Bearer {KEY}"] * 12


def test_a_judge_whose_replies_are_cut_is_given_room(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    server.answer = lambda _messages: completion("Let me see. The first", finish_reason="length")
    code, _, err = finetune("judge", *files, "--model", "judge", "--output", "judged")
    assert code == 1
    assert "(mostly: the reply was cut before its scores); look at judged/report.html, and raise --max-tokens, or choose" in err
    assert "another --model, and another --output" in err
    server.answer = longer_wins
    code, out, _ = finetune("judge", *files, "--model", "judge", "--output", "longer", "--max-tokens", 2048)
    assert code == 0
    assert "tuned wins 6 of 6 against base" in out


def test_a_judge_that_always_says_8_7(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    server.answer = first_wins
    code, out, _ = finetune("judge", *files, "--model", "judge", "--output", "judged")
    assert code == 0
    assert "tuned wins 0 of 6" in out
    assert "another winner when the order changes: 100.0 % of 6" in out


def test_single_scores_and_a_second_judge(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    _, out, _ = finetune("judge", files[0], "--model", "judge", "--output", "scores")
    assert "tuned: mean score 2.00 (95 %: 2.00 to 2.00) of 6 answers; unreadable 0" in out
    _, out, _ = finetune("judge", *files, "--single", "--model", "judge", "--output", "both")
    assert "difference: +1.00" in out
    assert finetune("judge", *files, "--model", "judge", "--output", "judged")[0] == 0
    _, out, _ = finetune("judge", *files, "--model", "other", "--output", "judged-2", "--against", "judged")
    assert "other and judge: same outcome in 100.0 % of 6 pairs, kappa unknown" in out


def test_the_key_of_another_variable(
    finetune: Finetune, server: JudgeServer, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine-123456")
    assert finetune("judge", *files, "--model", "judge", "--output", "judged", "--api-key-env", "MY_KEY", "--base-url", server.url)[0] == 0
    assert set(server.keys) == {"Bearer sk-mine-123456"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget-usd", "1"], "--budget-usd needs --price-input and --price-output"),
        (["--api-key-env", "NOT_SET"], "--api-key-env NOT_SET: the variable is not set"),
        (["--base-url", "localhost"], "--base-url localhost is no address"),
        (["--against", "nowhere"], "nowhere is no folder of `finetune judge`"),
        (["--single", "--against", "nowhere"], "--against compares judges of pairs"),
        (["--rate", "0"], "--rate"),
        (["--stop", " answer"], "the files have no prompt in common"),
    ],
)
def test_wrong_options(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path], options: list[str], said: str) -> None:
    other = answers_file(files[1].with_name("other.jsonl"), SHORT, rows={n: {"prompt": f"Else {n}?"} for n in range(6)})
    baseline = other if "--stop" in options else files[1]
    code, _, err = finetune("judge", files[0], baseline, "--model", "judge", "--output", "judged", *options)
    assert code == 2
    assert said in err
    assert not Path("judged").exists()
    assert server.requests == []


def test_openai_itself_wants_a_key(finetune: Finetune, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = finetune("judge", *files, "--model", "judge", "--output", "judged")
    assert code == 2
    assert "OPENAI_API_KEY: the variable is not set" in err


def test_the_budget_says_how_far_it_got(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    command = ["judge", *files, "--model", "judge", "--output", "judged", "--concurrency", "1", "--max-tokens", "100"]
    code, _, err = finetune(*command, "--price-input", "1000", "--price-output", "1000", "--budget-usd", "1.5")
    assert code == 1
    assert "of 1.5000 USD are spent" in err
    assert "are judged, and all replies are kept in judged" in err
    sent = len(server.requests)
    assert 0 < sent < 12
    assert finetune(*command)[0] == 0
    assert len(server.requests) == 12


def test_a_run_that_is_killed_asks_nothing_twice(server: JudgeServer, files: tuple[Path, Path], tmp_path: Path) -> None:
    server.answer = lambda messages: longer_wins(messages) if len(server.requests) <= 5 else Raw(delay=60)
    command = [
        sys.executable,
        "-m",
        "finetune_cli.app",
        "judge",
        *map(str, files),
        "--model",
        "judge",
        "--output",
        str(tmp_path / "judged"),
    ]
    paths = os.pathsep.join([str(ROOT / "trainer"), str(ROOT / "operator")])
    process = subprocess.Popen([*command, "--concurrency", "1"], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL)
    while len(server.requests) < 6 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    answered = [json.dumps(request) for request in server.requests[:5]]
    server.answer = longer_wins
    server.requests.clear()
    done = subprocess.run([*command, "--json"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["requests"] == {"sent": 7, "fromCache": 5, "retried": 0}
    assert not set(answered) & {json.dumps(request) for request in server.requests}


def test_from_ballots_to_preferences(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    assert finetune("judge", *files, "--model", "judge", "--output", "judged")[0] == 0
    code, out, _ = finetune("human", "export", *files, "--output", "ballots.jsonl", "--key", "key.json", "--seed", 3)
    assert (code, out) == (
        0,
        "6 ballots are in ballots.jsonl, their key is in key.json; read votes with `finetune human import VOTES --key key.json`\n",
    )
    rows = [json.loads(line) for line in Path("ballots.jsonl").read_text().splitlines()]
    for name, tie in (("ann", 0), ("bob", 1)):
        votes = [{"id": row["id"], "vote": "left" if row["left"].startswith("a longer") else "right"} for row in rows]
        votes[0]["vote"] = "tie" if tie else votes[0]["vote"]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    command = ["human", "import", "ann.jsonl", "bob.jsonl", "--key", "key.json", "--judge", "judged", "--output", "votes.jsonl"]
    _, out, _ = finetune(*command)
    assert "12 votes of 2 people on 6 pairs" in out
    assert "tuned wins 5 of 6 against base" in out
    assert "ann and bob: agreed on 83.3 % of 6 pairs" in out
    assert "judge and people: agreed on 83.3 % of 6 pairs" in out
    assert finetune("judge", *files, "--model", "judge", "--output", "again")[0] == 0
    _, out, _ = finetune(*command, "--judge", "again")
    assert "judge (judged) and people: agreed" in out
    assert "judge (again) and people: agreed" in out
    _, out, _ = finetune(*command, "--json")
    assert json.loads(out)["judges"][0]["withoutTies"] == {"pairs": 5, "agreement": 1.0, "kappa": None}
    _, out, _ = finetune("data", "preferences", "votes.jsonl", "--output", "preferences.jsonl")
    assert out == "5 pairs are in preferences.jsonl; left out: 1 x no winner\n"
    _, out, _ = finetune("data", "preferences", "judged", "votes.jsonl", "--output", "preferences.jsonl", "--json")
    assert json.loads(out) == {"output": "preferences.jsonl", "rows": 5, "left_out": {"no winner": 1}}
    row = json.loads(Path("preferences.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"prompt", "chosen", "rejected"}
    assert row["chosen"][0]["content"].startswith("a longer")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "ballots.xlsx", "--key", "key.json"], "the name must end with .html, .csv, .jsonl"),
        (["--output", "ballots.csv", "--key", "ballots.csv"], "--key and --output are the same file"),
        (["--output", "nowhere/ballots.csv", "--key", "key.json"], "there is no folder nowhere"),
    ],
)
def test_ballots_that_are_refused(finetune: Finetune, files: tuple[Path, Path], arguments: list[str], said: str) -> None:
    code, _, err = finetune("human", "export", *files, *arguments)
    assert code == 2
    assert said in err
    assert not Path("key.json").exists()


def test_votes_and_preferences_that_are_none(finetune: Finetune, files: tuple[Path, Path]) -> None:
    assert finetune("human", "export", *files, "--output", "ballots.csv", "--key", "key.json")[0] == 0
    code, _, err = finetune("human", "import", "ballots.csv", "--key", "key.json")
    assert code == 2
    assert "no ballot has a vote" in err
    code, _, err = finetune("data", "preferences", "ballots.csv", "--output", "out.jsonl")
    assert code == 2
    assert "ballots.csv row 1 is no vote" in err
    assert "Filled-in ballots are read by `finetune human import VOTES --key KEY`" in err
    assert not Path("out.jsonl").exists()


def test_the_commands_of_the_page(finetune: Finetune, server: JudgeServer, files: tuple[Path, Path]) -> None:
    """docs/judge.md, typed from top to bottom; people vote when the ballots are there."""
    page = (ROOT / "docs/judge.md").read_text(encoding="utf-8")
    commands = [line.removeprefix("$ finetune ") for line in page.splitlines() if line.startswith("$ finetune ")]
    assert len(commands) == 6
    for command in commands:
        code, _, err = finetune(*command.replace("http://127.0.0.1:8000/v1", server.url).split())
        assert (code, err) == (0, ""), command
        if command.startswith("human export"):
            for name in ("ann", "bob"):
                Path(f"votes-{name}.csv").write_text("id,vote\n1,left\n2,right\n3,tie\n")
    assert len(Path("preferences.jsonl").read_text().splitlines()) >= 5
