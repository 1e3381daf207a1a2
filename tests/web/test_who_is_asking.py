"""Every page and mail for customers says who asks, and whom they can write to."""

import re

import pytest
from flask import Flask

from tests.support.engines import on_sqlite
from tests.support.markup import Markup
from tests.support.visitor import Visitor
from tests.web.direct import send, visit
from tests.web.fixtures import World
from tests.web.inventory import LINK_TOKEN

PNG = b"\x89PNG\r\n\x1a\n and its pixels"
SERVICE = {
    "SERVICE_NAME": "Acme <Sync>",
    "SUPPORT_EMAIL": "support@example.com",
    "PRIVACY_URL": "https://example.com/privacy",
}
pytestmark = on_sqlite


@pytest.fixture
def environ(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the settings of a service with a logo."""
    logo = tmp_path_factory.mktemp("service") / "logo"
    logo.write_bytes(PNG)
    return {**environ, **SERVICE, "SERVICE_LOGO": str(logo)}


def test_each_page_of_a_customer_says_who_asks(world: World):
    pages = {
        "/": 200,
        "/connect": 200,
        f"/r/{LINK_TOKEN}": 200,
        "/r/gone": 404,
        "/your-accounts": 200,
        "/reconnect/1": 200,
        "/accounts/1/disconnect": 200,
        f"/connect/{world.held_ref}": 200,
        "/connect/ended/state_unknown": 400,
        "/nothing-here": 404,
    }
    for path, status in pages.items():
        page = send(world.customer, "GET", path)
        markup = Markup.of(page.text)
        links = [one["href"] for one in markup.all("a")]
        assert page.status_code == status, path
        assert "Acme <Sync>" in markup.all("header")[0].text, path
        assert markup.all("title")[0].text.endswith("· Acme <Sync>"), path
        assert "/logo" in [one["src"] for one in markup.all("img")], path
        assert "mailto:support@example.com" in links, path
        assert "https://example.com/privacy" in links, path
        assert "/signin" not in links, path
        assert "Keap Connect" not in page.text, path


def test_the_start_and_the_result_name_the_service_and_the_account(world: World):
    result = world.customer.reconnect(1, tenant="ab123")

    assert (
        "Acme <Sync> can work with Acme Plumbing again. You can close this page."
        in Markup.of(result.text).all("main")[0].text
    )
    for path in ("/", f"/r/{LINK_TOKEN}"):
        assert "Acme &lt;Sync&gt; never sees your Keap password" in send(world.anonymous, "GET", path).text


def test_an_error_names_whom_to_write_to_and_a_reference_that_admins_find(
    world: World, caplog: pytest.LogCaptureFixture
):
    denied = world.customer.reconnect(1, allow=False)
    in_log = [send(world.anonymous, "GET", path) for path in ("/nothing-here", "/connect/ended/state_unknown")]

    for page in (denied, *in_log):
        reference = re.search(
            r'Write to <a href="mailto:support@example.com\?subject=Reference%20([\w-]+)">support@example.com</a> '
            r"and send this reference: <code>\1</code>",
            page.text,
        )
        assert reference, page.url
        if page is denied:
            assert reference[1] in send(world.viewer, "GET", f"/accounts/journeys?reference={reference[1]}").text
            assert reference[1] not in send(world.viewer, "GET", "/accounts/journeys?reference=another").text
        else:
            assert f"{reference[1]}: " in caplog.text


def test_an_admin_sees_the_name_of_this_app_and_not_of_the_service(world: World):
    page = send(world.admin, "GET", "/accounts").text

    assert "Keap Connect" in page
    assert "/logo" not in page


def test_the_logo_is_served_as_a_picture(app: Flask):
    answer = send(visit(app), "GET", "/logo")

    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "public, max-age=3600"


def test_security_txt_names_the_contact_until_a_day_within_a_year(app: Flask):
    answer = send(visit(app), "GET", "/.well-known/security.txt")

    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.text.startswith("Contact: mailto:support@example.com\nExpires: 20")


def test_browsers_find_the_icon_and_the_page_to_change_a_password(visitor: Visitor):
    found = {
        path: send(visitor, "GET", path).headers["Location"].partition("?")[0]
        for path in ("/favicon.ico", "/.well-known/change-password")
    }

    assert found == {"/favicon.ico": "/static/favicon.svg", "/.well-known/change-password": "/profile#change-password"}
