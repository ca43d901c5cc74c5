"""The page, by clicking in Chromium: two models that follow a script, a process of its own, and nothing that asks another machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.assistant.playground.browser import chromium, opened
from tests.conftest import ROOT

from finetune_assistant.playground.layout import DISCLAIMER, EXAMPLES
from finetune_assistant.playground.pictures import why_not_run


@dataclass(frozen=True)
class Playground:
    """A process that serves the page. While the file `go` is there, questions that begin with "Wait" are answered to their end."""

    url: str
    votes: Path
    go: Path


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    votes = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    command = [sys.executable, "-m", "tests.assistant.playground.scripted_page", str(votes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Playground(url=process.stdout.readline().strip(), votes=votes, go=Path(f"{votes}.go"))
        finally:
            process.stdin.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, playground: Playground) -> Iterator[Page]:
    with opened(browser, playground.url) as found:
        yield found


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def chat(page: Page, side: str) -> str:
    return page.locator(f"#{side}-chat").inner_text()


def test_a_visitor_asks_votes_and_sees_who_it_was(page: Page, playground: Playground) -> None:
    expect(page.get_by_text(DISCLAIMER)).to_be_visible()
    expect(page.get_by_role("button", name="Left is better")).to_be_disabled()
    ask(page, "Is List<T> \u00e4 type? ![x](http://192.0.2.1/x.png) <img src=http://192.0.2.1/y.png>")
    expect(page.get_by_role("button", name="Left is better")).to_be_enabled()
    expect(page.get_by_label("Question")).to_have_value("")
    for side in ("left", "right"):
        assert "You said: Is List<T> \u00e4 type? ![x](" in chat(page, side)
        expect(page.locator(f"#{side}-tokens")).to_have_text("Tokens and times are shown with the names, which they would give away.")
    tuned = "left" if "I am tuned" in chat(page, "left") else "right"
    page.get_by_label("Your name").fill("Ann")
    page.get_by_role("button", name=f"{tuned} is better").click()
    expect(page.locator("#voted")).to_contain_text(f"{tuned} is tuned")
    expect(page.locator(f"#{tuned}-tokens").get_by_role("cell")).to_have_count(5)
    expect(page.get_by_role("button", name="Left is better")).to_be_disabled()
    row = json.loads(playground.votes.read_text().splitlines()[-1])
    assert (row["vote"], row["rater"], row["model_a"], row["model_b"]) == ("a", "Ann", "tuned", "base")
    assert row["prompt"].startswith("Is List<T> \u00e4 type?")
    page.get_by_role("button", name="New talk").click()
    expect(page.locator("#left-chat").get_by_text("You said")).to_have_count(0)


def test_an_answer_streams_and_stops_and_another_browser_waits(page: Page, browser: Browser, playground: Playground) -> None:
    ask(page, "Wait for it")
    expect(page.locator("#left-chat").get_by_text("I", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    with opened(browser, playground.url) as other:
        ask(other, "Hello")
        expect(other.locator("#status")).to_have_text("The model answers somebody else; 1 before you.")
        page.get_by_role("button", name="Stop").click()
        expect(other.locator("#left-chat").get_by_text("You said: Hello")).to_be_visible()
    expect(page.locator("#right-chat").get_by_text("No answer: stopped before it was asked")).to_be_visible()
    expect(page.locator("#status")).to_have_text("An answer is missing or was stopped; ask again to vote.")
    playground.go.touch()
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator("#right-chat").get_by_text("You said: Wait for it")).to_be_visible()
    expect(page.get_by_role("button", name="Both are bad")).to_be_enabled()
    playground.go.unlink()


def test_a_page_that_is_closed_ends_its_answer(page: Page, browser: Browser, playground: Playground) -> None:
    with opened(browser, playground.url) as gone:
        ask(gone, "Wait for it")
        expect(gone.locator("#left-chat").get_by_text("I", exact=True)).to_be_visible()
    ask(page, "Hello")
    expect(page.locator("#left-chat").get_by_text("You said: Hello")).to_be_visible()


def test_examples_fill_the_question_and_settings_reach_the_models(page: Page) -> None:
    name, prompt = EXAMPLES[1]
    page.get_by_role("button", name=name).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Question")).to_have_value(prompt)
    page.get_by_role("button", name="System prompt and sampling").click()
    page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    page.get_by_role("textbox", name="Temperature").fill("-1")
    ask(page, "Hello")
    expect(page.locator("#status")).to_have_text("Temperature is -1; give a number of 0 or more, or nothing")
    expect(page.get_by_label("Question")).to_have_value("Hello")
    page.get_by_role("textbox", name="Temperature").fill("0.5")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#left-chat").get_by_text("Be brief.You said: Hello")).to_be_visible()


def test_code_can_be_copied_and_run(page: Page) -> None:
    ask(page, "Plot it")
    run = page.get_by_role("button", name="Run the left one's")
    expect(page.locator("#left-chat code")).to_contain_text("plt.bar")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#left-chat").get_by_role("button", name="copy", exact=True).click()
    assert "plt.show()" in page.evaluate("navigator.clipboard.readText()")
    if (reason := why_not_run()) is not None:
        expect(page.locator("#no-running")).to_contain_text(reason[:60])
        expect(run).to_be_disabled()
        return
    run.click()
    expect(page.locator("#ran")).to_have_text("It ran, and drew 1 picture.")
    expect(page.get_by_label("What it printed")).to_have_value("two bars\n")
    picture = page.get_by_role("img", name="Picture 1 that the answer's program drew")
    assert picture.evaluate("image => image.naturalWidth") > 100
