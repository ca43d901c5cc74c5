"""The picture of docs/playground.md, from two models that follow a script and say so.

`python -m tests.assistant.playground.screenshot docs/images/playground.png`
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect
from tests.assistant.playground.browser import chromium, opened
from tests.assistant.playground.scripted import scripted

from finetune_assistant.playground.layout import Offer
from finetune_assistant.playground.page import blocks
from finetune_assistant.playground.serving import served
from finetune_assistant.playground.talks import Talks
from finetune_assistant.playground.votes import VoteFile
from finetune_assistant.serving.ports import bound

NAMES = ("scripted-tuned", "scripted-base")


def main(picture: Path) -> None:
    """Ask, vote, run, and take the picture."""
    talks = Talks([scripted(name) for name in NAMES], seed=1)
    with tempfile.TemporaryDirectory() as folder:
        offer = Offer(title=f"Playground: {NAMES[0]}", votes=VoteFile(path=Path(folder) / "votes.jsonl", names=NAMES))
        page_of = blocks(talks, offer)
        with served(page_of, bound("127.0.0.1", 0)) as at, chromium() as browser, opened(browser, at.url) as page:
            page.get_by_label("Question").fill("Plot it")
            page.get_by_label("Question").press("Enter")
            page.get_by_role("button", name="Left is better").click()
            page.get_by_role("button", name="Run the left one's").click()
            expect(page.locator("#ran")).to_have_text("It ran, and drew 1 picture.")
            page.screenshot(path=picture, full_page=True)
    talks.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
