"""`finetune evaluate prompts` as typed, with a model on loopback that writes prompts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.assistant.judging.judge_server import KEY, JudgeServer, Raw, judge_server
from tests.assistant.prompts.author import Writer
from tests.cli.conftest import Finetune

from finetune_assistant.prompts.code_prompts import read_prompts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    with judge_server(Writer()) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


COMMAND = ("evaluate", "prompts", "--model", "author", "--output", "prompts.jsonl")


def test_prompts_as_text_and_as_json(finetune: Finetune, server: JudgeServer) -> None:
    code, out, _ = finetune(*COMMAND, "--count", 8)
    assert code == 0
    assert "8 prompts are in prompts.jsonl: 2 review, 6 write" in out
    sent = len(server.requests)
    assert f"{sent} requests sent, 0 answered from before; {sent * 120:,} tokens" in out
    code, out, _ = finetune(*COMMAND, "--count", 12, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["prompts"], found["kinds"], found["dropped"]) == (12, {"review": 3, "write": 9}, {})
    assert len(read_prompts(Path("prompts.jsonl"))) == 12
    assert KEY not in "".join(path.read_text() for path in Path("prompts.jsonl.requests").iterdir())


def test_a_limit_says_how_far_it_got_and_the_same_command_goes_on(finetune: Finetune, server: JudgeServer) -> None:
    code, _, err = finetune(*COMMAND, "--count", 30, "--max-tokens", 100, "--budget-tokens", 700)
    assert code == 1
    assert "raise --budget-tokens" in err
    assert "of 30 prompts are in prompts.jsonl: run the command again, and it goes on" in err
    sent = len(server.requests)
    assert 0 < sent < 6
    assert finetune(*COMMAND, "--count", 30, "--max-tokens", 100)[0] == 0
    assert len({json.dumps(request) for request in server.requests}) == len(server.requests)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", 0], "--count"),
        (["--count", 3, "--output", "nowhere/prompts.jsonl"], "it must be a file in a folder that is there"),
        (["--count", 3, "--budget-usd", 1], "--budget-usd needs --price-input and --price-output"),
        (["--count", 3, "--reply-timeout", 0.3, "--retries", 0], "no whole reply in 0.3 seconds"),
    ],
)
def test_what_is_refused(finetune: Finetune, server: JudgeServer, options: list[object], said: str) -> None:
    server.answer = lambda messages: Raw(drips=True)
    code, _, err = finetune(*COMMAND, *options)
    assert code == (1 if "--reply-timeout" in options else 2)
    assert said in err


def test_a_model_may_still_be_called_prompts(finetune: Finetune) -> None:
    code, _, err = finetune("evaluate", "./prompts", "--tasks", "arc_challenge")
    assert (code, "is no folder" in err) == (2, True)
