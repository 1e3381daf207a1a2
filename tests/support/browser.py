"""The browser of the tests: Chromium, driven by Playwright, one context for each test.

`python -m tests.support.browser` makes sure that there is one; `make test` runs it first.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.support.packages import install_by_apt

# Chromium without its window takes half of the processor time: the other one lays out a hidden window for each person.
HEADLESS_SHELL = "chromium-headless-shell"
SYSTEM_NAMES = (HEADLESS_SHELL, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LAUNCH_OPTIONS = [
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@cache
def find_system_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome that starts, or None."""
    for name in SYSTEM_NAMES:
        path = shutil.which(name)
        # Ubuntu's chromium-browser may be an empty shell that only asks for a snap: let it say its version.
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def launch_browser(playwright: Playwright, *options: str) -> Browser:
    """Start Chromium without a window; without one on the system, Playwright starts its own."""
    # Without `chromium_sandbox`, Playwright passes --no-sandbox: Chromium's own works neither as root nor in
    # many containers, and the tests open no page but ours.
    return playwright.chromium.launch(
        executable_path=find_system_chromium(), headless=True, chromium_sandbox=False, args=[*LAUNCH_OPTIONS, *options]
    )


def ensure_browser() -> None:
    """Install Chromium without its window where that is allowed; else take the system's, or Playwright's own."""
    if not shutil.which(HEADLESS_SHELL):
        install_by_apt(HEADLESS_SHELL)
    if find_system_chromium():
        return
    with sync_playwright() as playwright:
        if Path(playwright.chromium.executable_path).exists():
            return
    print("Installing Playwright's Chromium …", flush=True)
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Give what drives the browsers of this test run."""
    with sync_playwright() as driving:
        yield driving


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Give one Chromium for the whole test run."""
    launched = launch_browser(playwright)
    yield launched
    launched.close()


@pytest.fixture(scope="module")
def frameless_browser(playwright: Playwright) -> Iterator[Browser]:
    """Give a Chromium that lays pages out and never draws them, for half of the processor time; it takes no clicks."""
    launched = launch_browser(playwright, "--disable-threaded-compositing")
    yield launched
    launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Give a person with an empty cookie jar; a certificate of our own making is accepted."""
    opened = browser.new_context(ignore_https_errors=True, locale="en-US", timezone_id="UTC")
    opened.set_default_timeout(15_000)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """Give one tab of that person."""
    return context.new_page()


if __name__ == "__main__":
    ensure_browser()
