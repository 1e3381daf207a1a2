"""What the browser tests share: a person at a watched browser, on SQLite alone."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from playwright.sync_api import BrowserContext, Page, expect

from keap_connect.settings import Settings
from tests.browser.person import Person, Watch
from tests.support.sandbox import Sandbox

expect.set_options(timeout=15_000)  # a busy machine is no reason to fail


@pytest.fixture
def watch(context: BrowserContext) -> Iterator[Watch]:
    """Watch the browser; an error in its console or something the CSP blocked fails the test at its end."""
    watching = Watch.over(context)
    yield watching
    assert watching.complaints == []


@pytest.fixture
def new_person(
    app: Flask, watch: Watch, context: BrowserContext, settings: Settings, sandbox: Sandbox
) -> Callable[[], Person]:
    """Give the function that opens one more tab in the same browser."""
    return lambda: Person(context.new_page(), settings.public_url, sandbox)


@pytest.fixture
def person(app: Flask, watch: Watch, page: Page, settings: Settings, sandbox: Sandbox) -> Person:
    """Give a customer who has not been here before."""
    return Person(page, settings.public_url, sandbox)
