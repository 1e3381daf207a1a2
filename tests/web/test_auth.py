"""Who may go where: every route against everybody, closed by default, and no way out to another site."""

import re
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask

from keap_connect.web.auth import Audience
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send
from tests.web.fixtures import World
from tests.web.inventory import ADDRESSES, AUDIENCES, METHODS, address, routes

pytestmark = on_sqlite

IN, SIGN_IN, REFUSED, NOT_FOUND = "in", "to the sign-in", "refused", "no such account"
EVERYBODY = ("anonymous", "customer", "foreign customer", "viewer", "admin")
OPEN_TO = {
    "anyone": (IN, IN, IN, IN, IN),
    "browser": (IN, IN, IN, IN, IN),
    "owner": (REFUSED, IN, NOT_FOUND, REFUSED, IN),
    "viewer": (SIGN_IN, SIGN_IN, SIGN_IN, IN, IN),
    "admin": (SIGN_IN, SIGN_IN, SIGN_IN, REFUSED, IN),
}
LOCAL_PATHS = ("/accounts", "/accounts/7", "/your-accounts", "/", "/a_b-c/d")
HOSTILE_PATHS = (
    "//evil",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\r\n/evil.example",
    "/accounts\r\nLocation: https://evil.example",
    "https://evil.example",
    "https:evil.example",
    "http:///evil.example",
    "evil.example",
    "@evil.example",
    "/@evil.example",
    "/%2f%2fevil.example",
    "/%2fevil.example",
    "/%5cevil.example",
    "%2f%2fevil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,x",
    "/.//evil.example",
    "/..//evil.example",
    "/accounts/..//evil.example",
    "//evil.example/accounts",
    "/accounts?next=//evil.example",
    "/accounts#@evil.example",
    "/accounts;x=//evil.example",
    " //evil.example",
    "\u3000//evil.example",
    "/\uff0fevil.example",
    "/evil\u3002example",
    "",
    "\t//evil.example",
    "/@evil.example/..//",
)


def let_in(world: World, who: str, method: str, endpoint: str, entered: list[str]) -> str:
    """Knock, and say how the door answered; the view itself is not run."""
    entered.clear()
    token = world.visitor(who).session.headers.get("X-Token", "")
    data = {"csrf_token": token} if method not in {"GET", "HEAD", "OPTIONS", "TRACE"} else None
    answer = send(world.visitor(who), method, address(endpoint, world.account_id, world.held_ref), data=data)
    if answer.status_code == 405:
        return "405"
    if entered == [endpoint] or (method == "OPTIONS" and answer.status_code == 200):
        return IN
    assert entered == [], f"{endpoint} ran and was refused"
    if answer.status_code == 303 and answer.headers["Location"].partition("?")[0] == "/signin":
        return SIGN_IN
    refusals = {403: REFUSED, 404: NOT_FOUND}
    return refusals.get(answer.status_code, f"status {answer.status_code}")


@pytest.fixture
def entered(world: World) -> list[str]:
    """Give the endpoints whose view ran: each view only writes its name there."""
    ran: list[str] = []
    for visitor in (world.visitor(who) for who in EVERYBODY):
        visitor.get("/")
        visitor.session.headers["X-Token"] = visitor.fields("/connect")["csrf_token"]

    def stand_in(endpoint: str) -> Callable[..., tuple[str, int]]:
        def view(**_values: object) -> tuple[str, int]:
            ran.append(endpoint)
            return "", 204

        view.audience = getattr(world.app.view_functions[endpoint], "audience", None)
        return view

    for endpoint in AUDIENCES:
        world.app.view_functions[endpoint] = stand_in(endpoint)
    return ran


def test_every_route_declares_its_audience_and_stands_in_the_inventory(app: Flask):
    declared = {endpoint: getattr(app.view_functions[endpoint], "audience", None) for endpoint in routes(app)}
    declared.pop("static")

    listed = {endpoint: audience.replace("browser", "anyone") for endpoint, audience in AUDIENCES.items()}
    assert declared == listed
    assert set(ADDRESSES) == {*AUDIENCES, "static"}
    assert set(Audience) == set(listed.values())


@pytest.mark.proves("R57")
@pytest.mark.parametrize("who", EVERYBODY)
def test_door_opens_to_whom_the_inventory_says_and_to_nobody_else(world: World, entered: list[str], who: str):
    methods_of = routes(world.app)
    # Routing refuses a method without a use before it is known who asks: one person tries them all.
    tried = {one: METHODS if who == "anonymous" else methods_of[one] for one in AUDIENCES}

    answers = {
        (endpoint, method): let_in(world, who, method, endpoint, entered)
        for endpoint, methods in tried.items()
        for method in methods
    }

    expected = {
        (endpoint, method): OPEN_TO[AUDIENCES[endpoint]][EVERYBODY.index(who)]
        if method in methods_of[endpoint]
        else "405"
        for endpoint, methods in tried.items()
        for method in methods
    }
    assert answers == expected


@pytest.mark.proves("R57")
def test_a_viewer_sees_audit_and_setup_without_buttons_and_is_told_the_role_elsewhere(world: World):
    shown = {path: send(world.viewer, "GET", path) for path in ("/audit", "/setup")}
    refused = {path: send(world.viewer, "GET", path) for path in ("/reconnect/1", "/admins")}

    assert {path: page.status_code for path, page in shown.items()} == dict.fromkeys(shown, 200)
    assert not any("/setup/check" in page.text or "/import" in page.text for page in shown.values())
    assert "/setup/check" in send(world.admin, "GET", "/setup").text
    assert {path: page.status_code for path, page in refused.items()} == dict.fromkeys(refused, 403)
    assert all("Your role is viewer" in page.text for page in refused.values())
    assert "Your role is viewer: you find" in send(world.viewer, "GET", "/your-accounts").text


@pytest.mark.proves("R57")
def test_a_viewer_who_is_a_customer_too_reconnects_their_own_account_only(world: World):
    world.viewer.connect(person="ben.ortiz@example.com")

    assert [send(world.viewer, "GET", f"/reconnect/{number}").status_code for number in (1, 3)] == [403, 200]


@pytest.mark.proves("R57")
def test_a_route_that_declares_nothing_is_open_to_nobody(world: World):
    ran = []
    world.app._got_first_request = False  # Flask adds no route once it has served
    world.app.add_url_rule("/undeclared", "undeclared", lambda: ran.append("undeclared") or "secret")

    statuses = {who: send(world.visitor(who), "GET", "/undeclared").status_code for who in EVERYBODY}

    assert ran == []
    assert statuses == dict.fromkeys(EVERYBODY, 403)


@pytest.mark.parametrize("who", ["anonymous", "foreign customer", "admin"])
def test_a_flow_shows_itself_to_its_own_browser_alone(world: World, who: str):
    stranger = world.visitor(who)
    stranger.get("/")
    token = stranger.fields("/connect")["csrf_token"]

    seen = send(stranger, "GET", address("connect.result", ref=world.held_ref))
    pressed = send(
        stranger,
        "POST",
        address("connect.confirm", ref=world.held_ref),
        data={"csrf_token": token, "choice": "connect"},
    )

    assert (seen.status_code, pressed.status_code) == (404, 404)
    assert "Bright Dental" not in seen.text
    assert "Bright Dental" in world.customer.get(address("connect.result", ref=world.held_ref)).text


def test_a_foreign_account_and_a_missing_one_look_the_same_to_a_customer(world: World):
    paths = {"connect.reconnect", "accounts.disconnect"}

    foreign = [send(world.foreign_customer, "GET", address(one, world.account_id)) for one in sorted(paths)]
    missing = [send(world.foreign_customer, "GET", address(one, 9999)) for one in sorted(paths)]

    assert [one.status_code for one in foreign] == [404, 404]
    assert [without_reference(one.text) for one in foreign] == [without_reference(one.text) for one in missing]


def test_a_customer_sees_their_own_accounts_and_no_others(world: World):
    world.customer.get("/your-accounts")
    assert "Acme Plumbing" in world.customer.text
    assert "Cedar & Sons" not in world.customer.text

    world.foreign_customer.get("/your-accounts")
    assert "Cedar & Sons" in world.foreign_customer.text
    assert "Acme Plumbing" not in world.foreign_customer.text


def test_whoever_asks_for_a_closed_page_gets_there_after_signing_in(world: World):
    stranger = world.anonymous

    sent_to = stranger.get("/accounts/1")
    stranger.press("/signin", email=ADMIN_EMAIL, password=ADMIN_PASSWORD)

    assert urlsplit(sent_to.url).path == "/signin"
    assert urlsplit(stranger.page.url).path == "/accounts/1"
    assert stranger.page.status_code == 200


@pytest.mark.proves("R16", "F59")
def test_sign_in_goes_on_to_local_paths_only(admin: Visitor):
    def by_link(path: str) -> str:
        admin.get("/signin", params={"next": path})
        admin.press("/signin", follow=False, email=ADMIN_EMAIL, password=ADMIN_PASSWORD)
        return admin.page.headers["Location"]

    def by_field(path: str) -> str:
        carried = admin.get("/signin", params={"next": path}) and admin.fields("/signin")["next"]
        admin.press("/signin", follow=False, email=ADMIN_EMAIL, password=ADMIN_PASSWORD, next=path)
        return carried + admin.page.headers["Location"]

    assert {path: by_link(path) for path in LOCAL_PATHS} == {path: path for path in LOCAL_PATHS}
    assert {path: by_field(path) for path in HOSTILE_PATHS} == dict.fromkeys(HOSTILE_PATHS, "/accounts")


@pytest.mark.proves("R16")
@pytest.mark.parametrize(
    "path",
    ["//accounts", "///accounts", "//evil.example/accounts", "/\\evil.example", "/%2f%2fevil.example", "/.//accounts"],
)
def test_no_address_of_ours_redirects_to_another_site(world: World, path: str):
    for who in EVERYBODY:
        answer = send(world.visitor(who), "GET", path)
        target = urljoin(world.anonymous.base_url, answer.headers.get("Location", "/"))

        assert target.startswith(world.anonymous.base_url + "/")


@pytest.mark.proves("R16")
@pytest.mark.parametrize(
    "header", ["Referer", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Host", "X-Forwarded-Prefix"]
)
def test_no_header_says_where_a_redirect_goes(world: World, header: str):
    answer = send(world.anonymous, "GET", "/accounts", headers={header: "//evil.example/"})

    assert answer.headers["Location"] == "/signin?next=/accounts"


def without_reference(page: str) -> str:
    """Return an error page without what names this one error."""
    return re.sub(r"<code>[0-9a-f]{8}</code>", "", page)
