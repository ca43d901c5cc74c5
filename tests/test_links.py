"""Links of our pages lead to files that are there, and to headings that are on them."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *(page for folder in ("docs", "examples", "charts", "findings") for page in (ROOT / folder).rglob("*.md"))]


@cache
def text_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    plain = (re.sub(r"\]\([^)]*\)", "", heading.strip().lower()) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in anchors_of(target.resolve())):
            lost.append(link)
    assert lost == []
