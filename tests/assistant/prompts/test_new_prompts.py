"""New code prompts: their shares, what is dropped, and that the same call goes on."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.assistant.judging.judge_server import KEY, Answer, JudgeServer, Raw, judge_server
from tests.assistant.prompts.author import Writer, asked_for

from finetune_api.errors import EndpointFailed, InvalidData, RunConflict
from finetune_assistant.endpoint.budget import Budget
from finetune_assistant.endpoint.client import Endpoint, EndpointSettings
from finetune_assistant.endpoint.pace import Pace
from finetune_assistant.prompts.code_prompts import code_prompts, read_prompts
from finetune_assistant.prompts.new_prompts import Filled, fill, missing
from finetune_trainer.files.locks import locked


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(Writer()) as server:
        yield server


@pytest.fixture
def filled(server: JudgeServer, tmp_path: Path) -> Iterator[Callable[..., Filled]]:
    """Fills the file prompts.jsonl with so many."""
    endpoints = []

    def call(count: int, model: str = "author") -> Filled:
        settings = EndpointSettings(base_url=server.url, model=model, api_key=KEY, retries=0)
        endpoints.append(Endpoint(settings, tmp_path / "requests", Budget(), Pace()))
        return fill(tmp_path / "prompts.jsonl", count, endpoints[-1], lambda done, total: None)

    yield call
    for endpoint in endpoints:
        endpoint.close()


def test_shares_are_those_of_ours_also_of_what_is_there() -> None:
    ours = Counter((prompt.kind, prompt.language) for prompt in code_prompts())
    found = missing(115)
    assert found.total() == 115
    assert all(abs(found[group] - many) <= 1 for group, many in ours.items())
    reviews = [prompt for prompt in code_prompts() if prompt.kind == "review"]
    assert {kind for kind, _ in missing(100, reviews)} == {"write"}
    assert missing(29, reviews) == {}


def test_a_file_is_filled_and_filled_up(server: JudgeServer, filled: Callable[..., Filled], tmp_path: Path) -> None:
    assert filled(20).dropped == {}
    first = read_prompts(tmp_path / "prompts.jsonl")
    assert Counter((prompt.kind, prompt.language) for prompt in first) == missing(20)
    assert len({prompt.id for prompt in first}) == 20
    sent = len(server.requests)
    filled(20)
    assert len(server.requests) == sent
    filled(40)
    now = read_prompts(tmp_path / "prompts.jsonl")
    assert (now[:20], len(now), len({prompt.id for prompt in now})) == (first, 40, 40)
    assert Counter(prompt.kind for prompt in now) == {"write": 30, "review": 10}


def test_what_is_dropped(server: JudgeServer, filled: Callable[..., Filled]) -> None:
    """Prompts of ours, also with a few words changed, what came before, and what is no prompt of its kind."""
    ours = next(prompt.prompt for prompt in code_prompts() if (prompt.kind, prompt.language) == ("write", "python"))
    writer = Writer()

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        _, language, kind = asked_for(messages)
        text = writer.text(kind, language)
        if kind == "review":
            return json.dumps([text.partition("```")[0], text])
        return json.dumps([ours, f"Please: {ours} Thank you very much!", "Sort it.", text, text.upper(), 7])

    server.answer = answer
    found = filled(4)
    assert Counter(prompt.kind for prompt in found.prompts) == {"write": 3, "review": 1}
    assert set(found.dropped) == {"a double", "too short or too long", "no code to review"}


def test_more_than_was_asked_for_is_not_taken(server: JudgeServer, filled: Callable[..., Filled]) -> None:
    writer = Writer()

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        _, language, kind = asked_for(messages)
        return json.dumps([writer.text(kind, language) for _ in range(9)])

    server.answer = answer
    assert len(filled(6).prompts) == 6


@pytest.mark.parametrize("nonsense", ["", "I can't do that.", "[1, 2]", '["Sort it."]', '{"prompts": "none"}'])
def test_replies_without_a_prompt_end_it_and_what_came_before_stays(
    server: JudgeServer, filled: Callable[..., Filled], tmp_path: Path, nonsense: str
) -> None:
    writer = Writer()

    def answer(messages: Sequence[Mapping[str, str]]) -> Answer:
        return writer(messages) if asked_for(messages)[1:] == ("python", "write") else nonsense

    server.answer = answer
    with pytest.raises(EndpointFailed, match=r"3 replies in a row had no new prompt \(.*; 3 of 8 prompts are in .*it goes on"):
        filled(8)
    assert {prompt.kind for prompt in read_prompts(tmp_path / "prompts.jsonl")} == {"write"}
    server.answer = writer
    assert len(filled(8, "another").prompts) == 8


def test_an_endpoint_in_trouble_says_how_far_it_got(server: JudgeServer, filled: Callable[..., Filled]) -> None:
    server.answer = lambda messages: Raw(status=400, body='{"error": {"message": "no"}}')
    with pytest.raises(EndpointFailed, match=r"refuses this request .*; 0 of 3 prompts are in"):
        filled(3)


def test_files_that_are_refused(filled: Callable[..., Filled], tmp_path: Path, server: JudgeServer) -> None:
    file = tmp_path / "prompts.jsonl"
    with locked(tmp_path / ".prompts.jsonl.lock"), pytest.raises(RunConflict, match="is writing it"):
        filled(3)
    file.write_text("no JSON\n")
    with pytest.raises(InvalidData, match="row 1 is no JSON"):
        filled(3)
    assert (file.read_text(), server.requests) == ("no JSON\n", [])
