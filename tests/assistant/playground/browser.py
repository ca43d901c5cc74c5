"""Chromium, driven by clicking. Nothing of a page may ask another machine than this one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.conftest import CI

SLOW_MACHINE_MILLISECONDS = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's; without it tests are skipped, and under CI they fail."""
    path = shutil.which("chromium")
    if path is None and not CI:
        pytest.skip("no browser: apt-get install chromium")
    assert path is not None, "no browser under CI: install Debian's package chromium"
    expect.set_options(timeout=SLOW_MACHINE_MILLISECONDS)
    with sync_playwright() as playwright:
        # Chromium refuses its own sandbox to root.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """A page of its own session, as soon as it can be used. Fails, at the end, for errors in its scripts and requests to elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    context.set_default_timeout(SLOW_MACHINE_MILLISECONDS)
    page = context.new_page()
    elsewhere: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: None if request.url.startswith((url, "data:", "blob:")) else elsewhere.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    expect(page.get_by_label("Question")).to_be_visible()
    try:
        yield page
    finally:
        context.close()
    assert elsewhere == []
    assert errors == []
