"""What the page tests share: each face rendered once, and a browser that loads it without a server."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask, flash, render_template
from playwright.sync_api import Browser, BrowserContext, Page, Route

from keap_connect.application import create_app
from keap_connect.settings import Settings
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.pages.faces import FACES, FACES_WITH_NOTICES, NOTICES
from tests.pages.markup import Markup

ORIGIN = "http://localhost:5000"


@pytest.fixture(scope="session")
def pages_app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """Give the app as far as its templates need it: nothing in its database, and no port."""
    url = f"sqlite:///{tmp_path_factory.mktemp('pages') / 'unused.db'}"
    environ = {"PORT": "5000", "SECRET_KEY": SECRET_KEY, "TOKEN_KEYS": TOKEN_KEY, "DATABASE_URL": url}
    return create_app(Settings.from_env(environ), serves=False)


@pytest.fixture(scope="session")
def rendered(pages_app: Flask) -> dict[str, str]:
    """Give the HTML of all faces."""
    return {face: _render(pages_app, face) for face in FACES}


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """Give the name of each face in turn."""
    name: str = request.param
    return name


@pytest.fixture
def html(face: str, rendered: dict[str, str]) -> str:
    """Give the HTML of each face in turn."""
    return rendered[face]


@pytest.fixture
def markup(html: str) -> Markup:
    """Give the parsed HTML of each face in turn."""
    return Markup.of(html)


@pytest.fixture(scope="session")
def window(browser: Browser, pages_app: Flask) -> Iterator[Page]:
    """Give one browser window for all faces."""
    # axe is injected as an inline script, so the policy is lifted here; tests/browser runs with it.
    context = browser.new_context(bypass_csp=True)
    _serve_without_port(context, pages_app)
    yield context.new_page()
    context.close()


@pytest.fixture
def window_without_scripts(browser: Browser, pages_app: Flask) -> Iterator[Page]:
    """Give a window that runs no script."""
    context = browser.new_context(java_script_enabled=False)
    _serve_without_port(context, pages_app)
    yield context.new_page()
    context.close()


@pytest.fixture
def show(window: Page) -> Callable[..., Page]:
    """Give the function that shows some HTML in a window."""

    def show_html(html: str, shown_in: Page = window) -> Page:
        face = f"{ORIGIN}/face"
        shown_in.unroute(face)
        shown_in.route(face, lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
        shown_in.set_viewport_size({"width": 1280, "height": 900})
        shown_in.goto(face)
        return shown_in

    return show_html


def _serve_without_port(context: BrowserContext, app: Flask) -> None:
    client = app.test_client()

    def answer(route: Route) -> None:
        served = client.get(route.request.url.removeprefix(ORIGIN), base_url=ORIGIN, buffered=True)
        route.fulfill(status=served.status_code, headers=dict(served.headers), body=served.data)

    context.route("**/*", answer)


def _render(app: Flask, face: str) -> str:
    template, context = FACES[face]
    with app.test_request_context("/", base_url=ORIGIN):
        if face in FACES_WITH_NOTICES:
            for category, message in NOTICES:
                flash(message, category)
        return render_template(template, **{"admin": None, "person": None, "sandbox_url": None, **context})
