"""An explorer of a tiny untrained network, and a browser: the system's Chromium, every request of which is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def sample(tiny_refshapes):
    """The first expression of the small RefShapes that has a word which is true of something."""
    from refseg.datasets import build_dataset

    return build_dataset("refshapes", "val", objects=True)[0]


@pytest.fixture
def explorer(tiny_checkpoint, sample):
    from refseg.explorer import Explorer

    return Explorer(tiny_checkpoint, sample)


@pytest.fixture(scope="module")
def chromium() -> str:
    """Where the browser is; without one the test skips, except in CI, which has to have one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium in CI: .ci/run installs it")
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    return found


@pytest.fixture(scope="module")
def browser(chromium):
    """Closed with its module: while it is open an event loop runs, and other tests want one of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """``open_page(path or HTML)`` gives a page from a file, every request of which is noted and refused.

    What goes wrong in its scripts fails the test.
    """
    contexts, wrong = [], []

    def open_(path: Path, width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        asked = []

        def refuse(route):
            if route.request.url == path.as_uri():
                route.continue_()
            else:
                asked.append(route.request.url)
                route.abort()

        page.route("**/*", refuse)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.asked = asked
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []
