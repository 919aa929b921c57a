"""The browser that the pages are tested in: Chromium, or by `BROWSER=firefox` Firefox, over BiDi (`make firefox`)."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api")
expect = playwright_api.expect
expect.set_options(timeout=30_000)
BROWSER = os.environ.get("BROWSER", "chromium")
NAMED = {"chromium": os.environ.get("CHROMIUM"), "firefox": os.environ.get("FIREFOX")}[BROWSER]
NAMES = {"chromium": ("chromium", "chromium-browser"), "firefox": ("firefox-esr", "firefox")}[BROWSER]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """The browser, running; the test is skipped where it is not installed."""
    program = NAMED or next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip(f"no {BROWSER}: install it, or name it in {BROWSER.upper()}")
    options = {"channel": "moz-firefox"} if BROWSER == "firefox" else {"args": ["--no-sandbox"]}
    with playwright_api.sync_playwright() as playwright:
        browser = getattr(playwright, BROWSER).launch(executable_path=program, **options)
        yield browser
        browser.close()


def drawn(page: Any) -> None:
    """Wait until the last answer stands as it will stay: only then it can be copied."""
    expect(page.locator(".side-answer").last.locator("[data-act=copy]")).to_be_visible()
