"""The report in a browser: on a telephone and on a screen, with every part and with none, whatever its texts are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from tests.assistant.playground.browser import chromium
from tests.trainer.reporting.test_report import HOSTILE, full_data, training_run

from finetune_trainer.reporting.report import ReportData, write_report

PAGES = {
    "full": full_data(),
    "empty": ReportData(run=training_run(), job_text="", measurements=[], outcome="failed"),
    "hostile": full_data(HOSTILE),
    "one long word": full_data("W" * 256),
}
# A table that is wider than the page is scrolled in its card.
WIDER_THAN_THE_PAGE = "document.documentElement.scrollWidth > window.innerWidth"
# Lines of the cell of most lines in the tables whose words are ours.
MOST_LINES = """Math.max(...[...document.querySelectorAll("td:not(.words)")].map(cell => cell.getBoundingClientRect().height /
    parseFloat(getComputedStyle(cell).lineHeight)))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(params=[390, 1200])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_and_asks_for_nothing(name: str, page: Page, tmp_path: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    write_report(PAGES[name], tmp_path / "report.html")
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert not page.evaluate(WIDER_THAN_THE_PAGE)
    if name in ("full", "empty"):
        assert page.evaluate(MOST_LINES) < 8
    assert asked == [(tmp_path / "report.html").as_uri()]
