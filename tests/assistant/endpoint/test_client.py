"""Endpoints by the real openai client: what goes wrong on the way to a judge, what is sent again, what is kept, and what it costs."""

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.judging.judge_server import KEY, JudgeServer, Raw, completion, judge_server, scripted

from finetune_api.errors import BudgetSpent, EndpointFailed, InvalidEndpoint
from finetune_assistant.endpoint.budget import Budget, Prices
from finetune_assistant.endpoint.client import Endpoint, EndpointSettings, RequestRefused
from finetune_assistant.endpoint.pace import Pace, Stopped

HELLO = [{"role": "user", "content": "hello"}]
HTML = Raw(body="<html><body>Welcome to the gateway</body></html>", headers={"Content-Type": "text/html"})


def error(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}})


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(scripted("8 7")) as server:
        yield server


class Opened:
    """Endpoints of one test, closed after it."""

    def __init__(self, server: JudgeServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._open: list[Endpoint] = []

    def __call__(self, budget: Budget | None = None, pace: Pace | None = None, **changes: Any) -> Endpoint:
        settings = {
            "base_url": self.server.url,
            "model": "judge",
            "api_key": KEY,
            "backoff_seconds": 0.01,
            "retries": 2,
            "timeout_seconds": 5.0,
        }
        endpoint = Endpoint(EndpointSettings(**{**settings, **changes}), self.folder, budget or Budget(), pace or Pace())
        self._open.append(endpoint)
        return endpoint

    def close(self) -> None:
        for endpoint in self._open:
            endpoint.close()


@pytest.fixture
def opened(server: JudgeServer, tmp_path: Path) -> Iterator[Opened]:
    endpoints = Opened(server, tmp_path / "requests")
    yield endpoints
    endpoints.close()


def test_what_is_sent_and_what_comes_back(server: JudgeServer, opened: Opened) -> None:
    reply = opened(temperature=0.5, max_tokens=77).ask(HELLO)
    assert (reply.text, reply.cut, reply.from_cache) == ("8 7", False, False)
    assert server.requests == [{"model": "judge", "messages": HELLO, "temperature": 0.5, "max_tokens": 77}]
    assert server.keys == [f"Bearer {KEY}"]


def test_a_reply_is_kept_with_its_request_and_never_asked_for_again(server: JudgeServer, opened: Opened) -> None:
    reply = opened().ask(HELLO)
    again = opened().ask(HELLO)
    assert (again.text, again.from_cache, len(server.requests)) == ("8 7", True, 1)
    (file,) = opened.folder.glob("*.json")
    kept = json.loads(file.read_text())
    assert file.stem == reply.request
    assert (kept["messages"], kept["reply"]["text"], kept["usage"]["prompt_tokens"]) == (HELLO, "8 7", 100)


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 1.0}, {"max_tokens": 9}])
def test_another_model_or_setting_is_another_request(server: JudgeServer, opened: Opened, change: dict[str, Any]) -> None:
    opened().ask(HELLO)
    assert not opened(**change).ask(HELLO).from_cache
    assert len(server.requests) == 2


@pytest.mark.parametrize("text", ["", "{", '{"reply": {"text": 7}}', '{"reply": {"text": "8 7"}, "usage": {}}', "[]"])
def test_a_damaged_file_is_asked_for_again(server: JudgeServer, opened: Opened, text: str) -> None:
    reply = opened().ask(HELLO)
    (opened.folder / f"{reply.request}.json").write_text(text)
    assert not opened().ask(HELLO).from_cache
    assert opened().ask(HELLO).from_cache
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        Raw(status=429, body=error("slow down")),
        Raw(status=500, body=error("oops")),
        Raw(status=503, body="<html>busy</html>", headers={"Content-Type": "text/html"}),
        HTML,
        Raw(body='{"choices": [{"index": 0, "mess'),
        Raw(body=""),
        Raw(body="[1, 2]"),
        Raw(body="{}"),
        Raw(body='{"choices": []}'),
        Raw(body='{"choices": null, "error": {"message": "upstream"}}'),
        Raw(body='{"choices": [{"index": 0}]}'),
    ],
)
def test_trouble_that_passes_is_sent_again(server: JudgeServer, opened: Opened, trouble: Raw) -> None:
    server.answer = scripted(trouble, "6 5")
    endpoint = opened()
    assert endpoint.ask(HELLO).text == "6 5"
    assert (len(server.requests), endpoint.asked.retried) == (2, 1)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Raw(status=429, body=error("slow down")), "429, too many requests"),
        (HTML, "a page instead of JSON: <html><body>Welcome"),
        (Raw(body='{"choices": [{'), "a reply that is no JSON"),
        (Raw(body="{}"), "JSON without a reply"),
        (Raw(status=500, body=error("oops")), "500: "),
    ],
)
def test_trouble_that_stays_ends_it_after_all_tries(server: JudgeServer, opened: Opened, trouble: Raw, said: str) -> None:
    server.answer = scripted(trouble)
    with pytest.raises(EndpointFailed, match="failed 3 times in a row") as failed:
        opened().ask(HELLO)
    assert said in str(failed.value)
    assert len(server.requests) == 3
    assert list(opened.folder.iterdir()) == []


def test_an_endpoint_that_is_down(server: JudgeServer, opened: Opened) -> None:
    server.close()
    with pytest.raises(EndpointFailed, match="it can't be reached"):
        opened().ask(HELLO)


def test_an_endpoint_that_is_slow(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(Raw(body=json.dumps(completion("1 2")), delay=1.0), "8 7")
    assert opened(timeout_seconds=0.3, reply_seconds=60.0).ask(HELLO).text == "8 7"
    server.answer = scripted(Raw(body="{}", delay=1.0))
    with pytest.raises(EndpointFailed, match=r"no reply in 0\.1 seconds"):
        opened(timeout_seconds=0.1, reply_seconds=60.0, retries=0).ask([{"role": "user", "content": "another"}])


@pytest.mark.parametrize("status", [200, 500])
def test_an_endpoint_that_drips_for_ever(server: JudgeServer, opened: Opened, status: int) -> None:
    """Bytes come all the time, so that no silence is ever long, and a reply never."""
    server.answer = scripted(Raw(status=status, drips=True), "8 7")
    assert opened(reply_seconds=0.3).ask(HELLO).text == "8 7"
    server.answer = scripted(Raw(status=status, drips=True))
    with pytest.raises(EndpointFailed, match=r"no whole reply in 0\.3 seconds"):
        opened(timeout_seconds=60.0, reply_seconds=0.3, retries=0).ask([{"role": "user", "content": "another"}])


class Waits(Pace):
    """A pace that notes its pauses in place of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.mark.parametrize(("header", "low", "high"), [("7", 7, 7), ("0.5", 0.5, 0.5), ("9999", 120, 120), ("date", 20, 40)])
def test_the_endpoint_says_how_long_to_wait(server: JudgeServer, opened: Opened, header: str, low: float, high: float) -> None:
    value = formatdate(time.time() + 30, usegmt=True) if header == "date" else header
    server.answer = scripted(Raw(status=429, body=error("x"), headers={"Content-Type": "application/json", "Retry-After": value}), "8 7")
    pace = Waits()
    opened(pace=pace).ask(HELLO)
    assert len(pace.pauses) == 1
    assert low <= pace.pauses[0] <= high


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        (Raw(status=401, body=error("bad key")), InvalidEndpoint, "refuses the key of OPENAI_API_KEY (401)"),
        (Raw(status=403, body=error("no")), InvalidEndpoint, "(403)"),
        (Raw(status=404, body=error("no model judge")), InvalidEndpoint, "correct --model, or --base-url"),
        (Raw(status=429, body=error("pay", "insufficient_quota")), EndpointFailed, "no credit left"),
        (Raw(status=400, body=error("context of 4096 exceeded")), RequestRefused, "context of 4096 exceeded"),
        (Raw(status=418, body=error("teapot")), InvalidEndpoint, "answers 418"),
    ],
)
def test_trouble_that_asking_again_does_not_mend(
    server: JudgeServer, opened: Opened, trouble: Raw, kind: type[Exception], said: str
) -> None:
    server.answer = scripted(trouble)
    with pytest.raises(kind) as failed:
        opened().ask(HELLO)
    assert said in str(failed.value)
    assert len(server.requests) == 1


def test_parameters_that_a_model_does_not_take_are_left_out(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(
        Raw(status=400, body=error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")),
        Raw(status=400, body=error("Unsupported value: 'temperature' does not support 0.0 with this model.")),
        "8 7",
    )
    endpoint = opened(max_tokens=50)
    assert endpoint.ask(HELLO).text == "8 7"
    assert server.requests[-1] == {"model": "judge", "messages": HELLO, "max_completion_tokens": 50}
    assert endpoint.asked.notes == ["the judge takes no temperature: it may answer otherwise the next time"]


@pytest.mark.parametrize("content", [None, 7, [{"type": "text", "text": "8 7"}]])
def test_a_reply_without_text_is_an_empty_one(server: JudgeServer, opened: Opened, content: Any) -> None:
    answer = completion("")
    answer["choices"][0]["message"]["content"] = content
    server.answer = scripted(answer)
    assert opened().ask(HELLO).text == ""


def test_half_a_character_in_a_reply(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted("8 7 \ud83d")
    assert opened().ask(HELLO).text == opened().ask(HELLO).text == "8 7 ?"


def test_a_key_that_is_a_word_hides_nothing_of_a_reply(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted("8 7\nEMPTY lists are handled.")
    assert opened(api_key="EMPTY").ask(HELLO).text == "8 7\nEMPTY lists are handled."


def test_a_reply_that_was_cut(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(completion("8 ", finish_reason="length"))
    assert opened().ask(HELLO).cut


def test_the_key_is_in_no_file_and_no_message(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(f"8 7\nYour key is {KEY}.")
    assert KEY not in opened().ask(HELLO).text
    assert KEY not in "".join(path.read_text() for path in opened.folder.iterdir())
    server.answer = scripted(Raw(status=401, body=error(f"Incorrect API key provided: {KEY}")))
    with pytest.raises(InvalidEndpoint) as failed:
        opened(model="other").ask(HELLO)
    assert KEY not in str(failed.value)
    assert KEY not in repr(EndpointSettings(base_url="http://h", model="m", api_key=KEY))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "is no address"),
        ("ftp://h/v1", "is no address"),
        ("http://", "is no address"),
        ("http://a:b@h/v1", "holds a password"),
    ],
)
def test_addresses_that_are_none(opened: Opened, url: str, said: str) -> None:
    with pytest.raises(InvalidEndpoint, match=said) as failed:
        opened(base_url=url)
    assert "a:b" not in str(failed.value)


def test_the_budget_is_held_also_by_several_threads_at_once(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(completion("8 7", prompt_tokens=30, completion_tokens=20))
    budget = Budget(tokens=300)
    endpoint = opened(budget=budget, max_tokens=50)
    refused = []

    def ask(number: int) -> None:
        try:
            endpoint.ask([{"role": "user", "content": f"question {number}"}])
        except BudgetSpent as spent:
            refused.append(str(spent))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.tokens == 50 * len(server.requests) <= 300
    assert len(refused) == 12 - len(server.requests)
    assert "raise --budget-tokens" in refused[0]


def test_what_was_spent_before_counts(server: JudgeServer, opened: Opened) -> None:
    prices = Prices(prompt=10_000.0, completion=50_000.0)
    server.answer = scripted(completion("8 7", prompt_tokens=100, completion_tokens=20))
    opened(budget=Budget(prices=prices), max_tokens=20).ask(HELLO)
    budget = Budget(usd=2.5, prices=prices)
    endpoint = opened(budget=budget, max_tokens=20)
    assert budget.usd == pytest.approx(2.0)
    assert endpoint.ask(HELLO).from_cache
    with pytest.raises(BudgetSpent, match=r"2\.0000 of 2\.5000 USD are spent"):
        endpoint.ask([{"role": "user", "content": "another"}])


def test_a_failed_request_gives_its_reservation_back(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(Raw(status=400, body=error("no")), "8 7")
    budget = Budget(tokens=100)
    endpoint = opened(budget=budget, max_tokens=60)
    with pytest.raises(RequestRefused):
        endpoint.ask(HELLO)
    assert endpoint.ask(HELLO).text == "8 7"


def test_usage_that_an_endpoint_does_not_tell_is_estimated(server: JudgeServer, opened: Opened) -> None:
    answer = completion("8 7\nBecause of this and that.")
    del answer["usage"]
    server.answer = scripted(answer)
    budget = Budget()
    opened(budget=budget).ask(HELLO)
    assert 10 < budget.tokens < 40


def test_a_stop_ends_waiting(server: JudgeServer, opened: Opened) -> None:
    server.answer = scripted(Raw(status=429, body=error("x"), headers={"Content-Type": "application/json", "Retry-After": "100"}))
    endpoint = opened()
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            endpoint.ask(HELLO)
        except Stopped as stopped:
            ended.append(stopped)

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    endpoint.stop()
    thread.join(timeout=30)
    assert len(ended) == 1
