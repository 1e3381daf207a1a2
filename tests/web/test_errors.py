"""What people see when something goes wrong: plain words, a reference, no trace, and nothing hostile comes through."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest
import requests
from flask import Flask
from sqlalchemy import select, text, update

from keap_connect.accounts.stored_state import derive_anew
from keap_connect.database import db, read_session, write_transaction
from keap_connect.errors import KeapConnectError
from keap_connect.models import Account
from keap_connect.settings import Settings
from keap_connect.web.errors import WORDS
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.postgres import PostgresServer
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import move, send
from tests.web.fixtures import World
from tests.web.inventory import AUDIENCES, address, routes
from tests.web.provoking import fail_in, press, refused

CANARY = "canary-text-of-an-exception"
ODD_ADDRESSES = {
    "/accounts/2147483648": 404,
    "/accounts/9999999999999999999999999": 404,
    "/accounts/9999999999999999999999999/disconnect": 404,
    "/reconnect/9999999999999999999999999": 404,
    "/accounts/0": 404,
    "/accounts/-1": 404,
    "/accounts/1.5": 404,
    "/accounts/٣": 404,
    "/accounts/1%00": 404,
    "/accounts?q=a%00b": 400,
    "/accounts?q=%ff%fe": 200,
    "/accounts?state=nonsense": 404,
    "/accounts?state=active%00": 400,
    "/accounts?page=99999999999999999999999999": 200,
    "/accounts?page=-1": 200,
    "/accounts?page=x": 200,
    "/connect/a%00b": 400,
    "/connect/ended/%00": 400,
    "/connect/ended/held": 404,
    "/callback?state=%00&code=%00": 400,
    "/signin?next=%00": 400,
    "/static/%00": 400,
}
HOSTILE_TEXTS = (
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)</script>",
    "</title></h1><svg/onload=alert(1)>",
    "' onfocus=alert(1) autofocus='",
    "{{ 7*7 }}{% raw %}${7*7}",
    '=HYPERLINK("http://evil.example","x")',
    "&lt;b&gt;&amp;lt;",
    "javascript:alert(1)",
)


def reference_on(page: str) -> str:
    """Return the reference that an error page names."""
    found = re.findall(r"[Rr]eference:\s*(?:<code>)?\s*([0-9a-f]{8})\b", page)
    assert len(found) == 1, page
    return found[0]


def ledger_of_tokens(sandbox: Sandbox) -> list[object]:
    """Return what was presented to the sandbox's token endpoint."""
    return [call for call in sandbox.ledger()["presentations"] if call["path"] == "/token"]


# Every error has words, a status and a reference


@on_sqlite
def test_every_error_page_names_its_status_and_a_reference_that_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
):
    for status, provoke in refused(world).items():
        caplog.clear()
        page = provoke().text
        if status == 401:  # the sign-in form itself, with a sentence on it
            assert 'role="alert"' in page
            continue

        assert f"Error {status}." in page
        assert HEADINGS.intersection(re.findall(r"<h1>(.*?)</h1>", page))
        assert reference_on(page) in caplog.text
        assert re.search(r'<a class="button[^>]*href="(/|/accounts)"', page)


def every(error: type[KeapConnectError]) -> Iterator[type[KeapConnectError]]:
    """Give an error and all that are below it in the tree."""
    yield error
    for each in error.__subclasses__():
        yield from every(each)


HEADINGS = {error.heading for error in every(KeapConnectError)} - {""} | {heading for heading, _ in WORDS.values()}


@on_sqlite
@pytest.mark.parametrize("path", ["/accounts/999999", "/nothing-here"])
def test_an_error_page_leads_an_admin_back_to_the_accounts(admin: Visitor, path: str):
    page = send(admin, "GET", path)

    assert page.status_code == 404
    assert re.search(r'<a class="button[^>]*href="/accounts">Go to the accounts<', page.text)
    assert f'Signed in as <a href="/profile">{ADMIN_EMAIL}' in page.text


@on_sqlite
def test_the_answer_to_an_unknown_host_has_a_reference_too(visitor: Visitor, caplog: pytest.LogCaptureFixture):
    page = send(visitor, "GET", "/accounts", headers={"Host": "evil.example"}).text

    assert f"{reference_on(page)}: SecurityError" in caplog.text


@on_sqlite
def test_an_exception_in_any_view_gives_a_calm_page_and_leaves_the_others_working(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.customer.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    methods_of = routes(world.app)
    for endpoint in AUDIENCES:
        working = world.app.view_functions[endpoint]
        fail_in(world.app, endpoint, RuntimeError(CANARY))
        caplog.clear()
        path = address(endpoint, world.account_id, world.held_ref)
        is_get = "GET" in methods_of[endpoint]
        page = world.customer.get(path) if is_get else press_as_is(world.customer, path)
        world.app.view_functions[endpoint] = working

        assert page.status_code == 500, endpoint
        assert WORDS[500][0] in page.text
        assert reference_on(page.text) in caplog.text
        assert not re.search(rf"Traceback|RuntimeError|{CANARY}|keap_connect/|\.py", page.text)
        assert world.customer.get("/healthz").status_code == 200


def press_as_is(visitor: Visitor, path: str) -> requests.Response:
    """Post with the right token, which is taken from a page that does not fail just now."""
    visitor.get("/signin")
    return send(visitor, "POST", path, data={"csrf_token": visitor.fields("/signin")["csrf_token"]})


@on_sqlite
def test_an_exception_before_any_view_gives_the_calm_page(
    visitor: Visitor, app: Flask, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_values: object) -> None:
        raise RuntimeError(CANARY)

    visitor.session.cookies.set("admin", "a" * 43)
    monkeypatch.setattr("keap_connect.web.auth.find_admin", fail)

    page = visitor.get("/accounts")

    assert page.status_code == 500
    assert CANARY not in page.text
    assert reference_on(page.text)


# What comes from outside


def test_odd_addresses_get_a_plain_answer_on_both_databases(admin: Visitor):
    assert {path: admin.get(path).status_code for path in ODD_ADDRESSES} == ODD_ADDRESSES

    posted = ("refresh", "complete", "disconnect")
    statuses = {press(admin, f"/accounts/{10**30}/{action}").status_code for action in posted}
    assert statuses == {404}


def test_a_null_character_in_a_form_is_refused_on_both_databases(visitor: Visitor):
    typed = {"email": "a@example.com", "password": "x" * 12, "next": ""}
    for field in (*typed, "csrf_token", "no such field"):
        visitor.get("/signin")

        answer = visitor.press("/signin", **{**typed, field: "a\0b"})

        assert answer.status_code == 400, field


def test_a_null_character_does_not_hide_behind_a_field_of_the_same_name(visitor: Visitor):
    visitor.get("/signin")
    form = {**visitor.fields("/signin"), "email": ["a@example.com", "a\0b"], "password": "x" * 12}

    repeated = send(visitor, "POST", "/signin", data=form)
    behind_the_address = send(visitor, "POST", "/signin?email=a@example.com", data={**form, "email": "a\0b"})

    assert (repeated.status_code, behind_the_address.status_code) == (400, 400)


@on_sqlite
def test_fields_that_no_form_has_are_ignored(world: World):
    extra = {"is_admin": "1", "role": "admin", "admin_id": "1", "account_id": "2", "reconnects_account_id": "2"}

    press(world.customer, "/signin", email="ann.lee@example.com", password="x" * 12, **extra)
    press(world.customer, "/connect", **extra)

    assert world.customer.get("/accounts").url.startswith(world.customer.base_url + "/signin")
    with world.app.app_context(), db.engine.connect() as connection:
        newest = text("SELECT reconnects_account_id FROM authorization_flow ORDER BY id DESC LIMIT 1")
        assert connection.execute(newest).scalar() is None


@on_sqlite
@pytest.mark.proves("R86")
@pytest.mark.parametrize("path", ["/r/", "/i/", "/new-password/", "/mail/unsubscribe/"])
def test_the_secret_of_a_link_is_in_no_line_about_its_address(
    visitor: Visitor, caplog: pytest.LogCaptureFixture, path: str
):
    send(visitor, "PUT", f"{path}canary-of-a-link")

    assert f"PUT {path}..." in caplog.text
    assert "canary" not in caplog.text


@on_sqlite
@pytest.mark.parametrize(
    "path", ["/nothing%0a2026-01-01 FAKE line", "/a%0d%0ab", "/%1b[31mred", "/\u2028line", "/%c2%85"]
)
def test_no_address_breaks_out_of_its_line_in_the_log(visitor: Visitor, caplog: pytest.LogCaptureFixture, path: str):
    send(visitor, "GET", path)

    lines = [record.getMessage() for record in caplog.records if record.name == "keap_connect.web.errors"]
    assert len(lines) == 1
    assert lines[0].isprintable()


@on_sqlite
def test_the_log_of_a_failed_statement_holds_nothing_that_was_typed(
    visitor: Visitor, app: Flask, caplog: pytest.LogCaptureFixture
):
    with table_gone(app, "admin"):
        visitor.get("/signin")
        page = visitor.press("/signin", email="canary-address@example.com", password="canary-password")

    assert page.status_code == 503
    assert "no such table" in caplog.text
    assert "canary" not in caplog.text


# The database is gone


@contextmanager
def table_gone(app: Flask, table: str) -> Iterator[None]:
    """Take a table away for the length of a block."""

    def rename(old: str, new: str) -> None:
        with app.app_context(), write_transaction() as session:
            session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    rename(table, f"{table}_gone")
    try:
        yield
    finally:
        rename(f"{table}_gone", table)


def assert_the_database_is_missed(visitor: Visitor, path: str) -> None:
    """Look at the page that says so."""
    page = visitor.get(path)
    assert (page.status_code, WORDS[503][0] in page.text) == (503, True), visitor.text
    assert reference_on(page.text)


def test_pages_say_that_the_database_is_gone_and_recover_by_themselves(world: World):
    pages = {"admin": "/accounts", "customer": "/your-accounts"}
    with table_gone(world.app, "account"):
        for who, path in pages.items():
            assert_the_database_is_missed(world.visitor(who), path)
        assert world.anonymous.get("/").status_code == 200

    for who, path in pages.items():
        assert world.visitor(who).get(path).status_code == 200


@on_sqlite
def test_nobody_passes_the_door_while_sign_ins_cannot_be_read(world: World):
    with table_gone(world.app, "sign_in"):
        for path in ("/accounts", "/accounts/1", "/reconnect/1"):
            assert_the_database_is_missed(world.admin, path)
        for path in ("/your-accounts", "/reconnect/1"):
            assert_the_database_is_missed(world.customer, path)


@on_postgresql
def test_pages_wait_for_a_stopped_server_and_recover_by_themselves(world: World, postgres: PostgresServer):
    postgres.stop()
    try:
        for path in ("/accounts", "/accounts/1"):
            assert_the_database_is_missed(world.admin, path)
        health = [world.anonymous.get(path).status_code for path in ("/healthz", "/readyz", "/signin")]
    finally:
        postgres.start()

    assert health == [200, 503, 200]
    assert "Acme Plumbing" in world.admin.get("/accounts").text
    assert world.anonymous.get("/readyz").status_code == 200


@on_postgresql
def test_a_crash_of_the_server_between_two_clicks_is_not_noticed(world: World, postgres: PostgresServer):
    postgres.kill()
    postgres.start()

    assert "Acme Plumbing" in world.admin.get("/accounts").text


@on_postgresql
def test_a_callback_that_met_a_stopped_server_sends_nothing_and_works_once_it_is_back(
    visitor: Visitor, sandbox: Sandbox, postgres: PostgresServer
):
    callback_url = sandbox.consent(visitor.set_out())
    postgres.stop()
    try:
        missed = visitor.get(callback_url)
        asked_meanwhile = ledger_of_tokens(sandbox)
    finally:
        postgres.start()
    page = visitor.get(callback_url)

    assert missed.status_code == 503
    assert asked_meanwhile == []
    assert page.status_code == 200
    assert "Your Keap account is connected" in visitor.text


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite wait for another writer for a moment only."""
    from keap_connect import engine

    pragmas = [one for one in engine.PRAGMAS if not one.startswith("busy_timeout")]
    monkeypatch.setattr(engine, "PRAGMAS", (*pragmas, "busy_timeout=50"))


@on_sqlite
@pytest.mark.usefixtures("short_patience")
def test_a_locked_database_can_still_be_read_and_written_again_afterwards(
    admin: Visitor, settings: Settings, sandbox: Sandbox
):
    admin.connect()
    admin.get("/accounts/1")
    other_writer = sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), isolation_level=None)
    other_writer.execute("BEGIN IMMEDIATE")
    fields = admin.fields("/accounts/1/refresh")
    calls_before = ledger_of_tokens(sandbox)

    started = send(admin, "POST", "/connect", data=fields)
    refreshed = admin.session.post(f"{admin.base_url}/accounts/1/refresh", data=fields)
    calls_meanwhile = ledger_of_tokens(sandbox)
    other_writer.execute("ROLLBACK")
    other_writer.close()
    freed = admin.session.post(f"{admin.base_url}/accounts/1/refresh", data=fields)

    assert (started.status_code, WORDS[503][0] in started.text) == (503, True)
    assert (refreshed.status_code, "Not refreshed; the tokens are kept." in refreshed.text) == (200, True)
    assert calls_meanwhile == calls_before
    assert "Refreshed: new tokens are stored." in freed.text


# A stored secret that does not open


def flipped(sealed: bytes) -> bytes:
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


def of_another_key(sealed: bytes) -> bytes:
    return sealed[:1] + bytes(4) + sealed[5:]


def of_another_version(sealed: bytes) -> bytes:
    return b"\x02" + sealed[1:]


def cut_short(sealed: bytes) -> bytes:
    return sealed[:9]


def cut_to_the_header(sealed: bytes) -> bytes:
    return sealed[:5]


def edit_tokens(app: Flask, account_id: int, change: Callable[[bytes], bytes]) -> None:
    """Change both ciphertexts of an account."""
    with app.app_context(), write_transaction() as session:
        account = session.get_one(Account, account_id)
        account.access_token_sealed = change(account.access_token_sealed or b"")
        account.refresh_token_sealed = change(account.refresh_token_sealed or b"")


def swap_tokens(app: Flask, one_id: int, other_id: int) -> None:
    """Give two accounts each other's ciphertexts."""
    with app.app_context(), write_transaction() as session:
        one, other = session.get_one(Account, one_id), session.get_one(Account, other_id)
        for column in ("access_token_sealed", "refresh_token_sealed"):
            ours, theirs = getattr(one, column), getattr(other, column)
            setattr(one, column, theirs)
            setattr(other, column, ours)


def rows(app: Flask, *account_ids: int) -> list[tuple[object, ...]]:
    """Return the rows of these accounts, byte for byte."""
    query = select(*Account.__table__.columns).where(Account.id.in_(account_ids)).order_by(Account.id)
    with app.app_context(), read_session() as session:
        return [tuple(row) for row in session.execute(query)]


def assert_quarantined(world: World, sandbox: Sandbox, account_id: int) -> None:
    """See that an account with a broken seal is shown, told of, never sent and never overwritten."""
    before, calls_before = rows(world.app, account_id), ledger_of_tokens(sandbox)

    shown = world.admin.get(f"/accounts/{account_id}")
    pressed = world.admin.press(f"/accounts/{account_id}/refresh")

    assert (shown.status_code, shown.text.count("cannot be opened")) == (200, 2)
    assert "put the key that sealed them back" in shown.text
    assert "Nothing to do" not in shown.text
    assert (pressed.status_code, "The stored token does not open, so nothing was sent." in pressed.text) == (200, True)
    assert ledger_of_tokens(sandbox) == calls_before
    assert rows(world.app, account_id) == before


@pytest.mark.proves("R45", "F39")
@on_sqlite
@pytest.mark.parametrize("change", [flipped, of_another_key, of_another_version, cut_short, cut_to_the_header])
def test_an_account_whose_seal_is_broken_leaves_the_others_alone(
    world: World, sandbox: Sandbox, change: Callable[[bytes], bytes]
):
    edit_tokens(world.app, world.account_id, change)

    listed = world.admin.get("/accounts")
    assert listed.status_code == 200
    assert listed.text.count(">Acme Plumbing</a>") == listed.text.count(">Cedar &amp; Sons</a>") == 1
    assert_quarantined(world, sandbox, world.account_id)

    world.admin.get(f"/accounts/{world.foreign_account_id}")
    world.admin.press(f"/accounts/{world.foreign_account_id}/refresh")
    assert "Refreshed: new tokens are stored." in world.admin.text
    assert world.customer.get("/your-accounts").status_code == 200


@pytest.mark.proves("R45", "F39")
@on_sqlite
def test_tokens_that_changed_places_open_nowhere_and_are_sent_nowhere(
    world: World, sandbox: Sandbox, new_visitor: Callable[[], Visitor]
):
    new_visitor().connect(person="finn.hale@example.com", tenant="ij345")
    swap_tokens(world.app, world.account_id, world.foreign_account_id)

    assert_quarantined(world, sandbox, world.account_id)
    assert_quarantined(world, sandbox, world.foreign_account_id)

    world.admin.get("/accounts/3")
    world.admin.press("/accounts/3/refresh")
    assert "Refreshed: new tokens are stored." in world.admin.text


@on_sqlite
def test_an_account_whose_seal_is_broken_can_be_reconnected(world: World):
    edit_tokens(world.app, world.account_id, flipped)

    world.customer.reconnect(world.account_id)

    assert "connected again" in world.customer.text
    assert "cannot be opened" not in world.admin.get(f"/accounts/{world.account_id}").text


# Hostile text


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and its text apart from them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attributes)))
        self.texts += [value for _, value in attributes if value]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def name_everything(world: World, name: str) -> None:
    """Give every field that people or Keap can fill in, of both accounts, one text."""
    values = {
        Account.business_name: name,
        Account.person_name: name,
        Account.person_email: name,
        Account.scope: name,
        Account.failure_reason: name,
        Account.failures: 3,
    }
    with world.app.app_context(), write_transaction() as session:
        session.execute(update(Account).values(values))
        session.execute(
            update(Account).where(Account.id == world.account_id).values(external_id=name, label=name, tenant_id=name)
        )
        session.execute(text("UPDATE account_event SET kind = 'refresh_failed'"))
        details = json.dumps({"reason": name})
        session.execute(text("UPDATE account_event SET details = :details"), {"details": details})
        session.execute(text("UPDATE account_event SET actor = :name"), {"name": name})
        session.execute(text("UPDATE admin SET email = :email WHERE role = 'admin'"), {"email": name})
        session.execute(text("UPDATE sign_in SET browser = :name, address = :name"), {"name": name})
    with world.app.app_context():
        derive_anew(0, 100)  # as the worker does with what another program wrote


def pages_with_names(world: World, name: str) -> dict[str, str]:
    """Return every page that shows a name, or what was typed."""
    name_everything(world, name)
    looked_at = {
        "list": world.admin.get("/accounts").text,
        "search": world.admin.get("/accounts", params={"q": name}).text,
        "one account": world.admin.get("/accounts/1").text,
        "disconnect": world.admin.get("/accounts/1/disconnect").text,
        "profile": world.admin.get("/profile").text,
        "admins": world.admin.get("/admins").text,
        "an admin": world.admin.get("/admins/1").text,
        "reconnect": world.customer.get("/reconnect/1").text,
        "your accounts": world.customer.get("/your-accounts").text,
        "another tenant": world.customer.get(f"/connect/{world.held_ref}").text,
    }
    world.anonymous.get("/signin")
    looked_at["sign-in"] = world.anonymous.press("/signin", email=name, password="x" * 12).text
    return looked_at


@on_sqlite
def test_hostile_names_are_text_on_every_page(world: World):
    long_name = "Acme Plumbing of the North Shore"  # it has a title, too
    harmless = {page: Structure(markup) for page, markup in pages_with_names(world, long_name).items()}

    for hostile in (one.ljust(30, "-") for one in HOSTILE_TEXTS):
        shown = {page: Structure(markup) for page, markup in pages_with_names(world, hostile).items()}

        assert {page for page in shown if shown[page].tags != harmless[page].tags} == set(), hostile
        assert {page for page in shown if hostile not in "\n".join(shown[page].texts)} == set(), hostile


@pytest.mark.proves("R10")
@on_sqlite
@pytest.mark.parametrize(
    "error", ["access_denied", "server_error", "temporarily_unavailable", "<script>alert(2)</script>"]
)
def test_an_error_that_keap_sends_is_told_as_text_and_changes_no_account(world: World, error: str):
    def come_back_with(description: str) -> Structure:
        authorization_url = world.customer.set_out("/reconnect/1", "/reconnect/1")
        state = re.findall(r"state=([^&]+)", authorization_url)[0]
        answer = {"state": state, "error": error, "error_description": description}
        return Structure(world.customer.get("/callback", params=answer).text)

    before = rows(world.app, 1, 2)
    move(world.customer, world.app, "192.0.2.7")  # where nobody has come back yet
    harmless = come_back_with("Something went wrong")

    for hostile in HOSTILE_TEXTS:
        shown = come_back_with(hostile)
        assert shown.tags == harmless.tags, hostile
        assert hostile in "\n".join(shown.texts)
    assert rows(world.app, 1, 2) == before


@pytest.mark.proves("R10")
@on_sqlite
def test_an_error_without_state_is_told_without_its_text(world: World):
    before = rows(world.app, 1, 2)

    page = world.customer.get(
        "/callback", params={"error": "server_error", "error_description": "<script>alert(1)</script>"}
    )

    assert page.status_code == 200
    assert "Keap could not finish this" in world.customer.text
    assert "alert(1)" not in page.text + page.url
    assert rows(world.app, 1, 2) == before


@on_sqlite
def test_hostile_tenant_names_come_all_the_way_from_keap_as_text(new_visitor: Callable[[], Visitor], admin: Visitor):
    page = new_visitor().connect(person="eve.stone@example.com", tenant="gh012")

    for markup in (page.text, admin.get("/accounts").text, admin.get("/accounts/1").text):
        assert "&gt;&lt;img src=x onerror=alert(1)&gt;" in markup
        assert not re.search(r"<img|onerror=alert\(1\)>", markup)
