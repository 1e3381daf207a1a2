"""Signing in and out: what a password costs, how guessing is slowed down, and when a sign-in ends."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
import requests
from argon2 import PasswordHasher, extract_parameters
from flask import Flask
from sqlalchemy import delete, select, text, update

from keap_connect import services
from keap_connect.access import passwords, sign_ins
from keap_connect.access.admins import create_admin, get_admin, remove_admin
from keap_connect.access.passwords import ATTEMPTS_PER_ADDRESS, ATTEMPTS_PER_EMAIL, LONGEST_PASSWORD
from keap_connect.access.rate_limits import WINDOW
from keap_connect.access.sign_ins import ABSOLUTE_LIMIT, IDLE_LIMIT, find_admin, sign_in_admin
from keap_connect.database import Base, db, read_session, write_transaction
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import WrongPassword
from keap_connect.events.history import EventKind
from keap_connect.models import AccountEvent, Admin, SignIn, SignInAttempt
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

OTHER_EMAIL = "other@example.com"  # as long as ADMIN_EMAIL
WRONG_PASSWORD = "not the password"
AT_ONCE, GUESSES = 40, 60  # each more than is allowed
SENT_AWAY = {429, 503}  # 503: more forms arrive at once than are waited for
REAL_HASHER = services.PASSWORD_HASHER  # read before tests/conftest.py puts a cheaper one in its place
ON_HTTPS = {"PUBLIC_URL": "https://localhost:8443"}


class CountingHasher:
    """Counts the checks of a password hasher, and notes what each was checked against."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self._hasher = hasher
        self.checked: list[str] = []

    def verify(self, stored: str, password: str) -> bool:
        self.checked.append(stored)
        return self._hasher.verify(stored, password)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hasher, name)


def count_checks(app: Flask) -> CountingHasher:
    """Put a counter before the app's password hasher."""
    equipped = app.extensions["keap_connect"]
    counting = CountingHasher(equipped.password_hasher)
    app.extensions["keap_connect"] = replace(equipped, password_hasher=counting)
    return counting


@pytest.fixture
def checks(app: Flask) -> list[str]:
    """Give the list of password checks that the app makes from now on."""
    return count_checks(app).checked


@pytest.fixture
def real_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a password cost what it costs outside the tests; ask for it before the app."""
    monkeypatch.setattr(services, "PASSWORD_HASHER", REAL_HASHER)


@pytest.fixture
def owner(app: Flask) -> None:
    """Let there be an admin, who is not signed in."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)


def try_password(
    visitor: Visitor, password: str = WRONG_PASSWORD, email: str = ADMIN_EMAIL, **headers: str
) -> requests.Response:
    """Send the sign-in form; its token is asked for once."""
    if not hasattr(visitor, "token"):
        visitor.get("/signin")
        visitor.token = visitor.fields("/signin")["csrf_token"]
    fields = {"csrf_token": visitor.token, "email": email, "password": password}
    return send(visitor, "POST", "/signin", headers, data=fields)


def is_signed_in(visitor: Visitor) -> bool:
    """Whether the dashboard opens."""
    return send(visitor, "GET", "/accounts").status_code == 200


def copy_of(visitor: Visitor, app: Flask, **cookies: str) -> Visitor:
    """Return another browser that holds copies of somebody's cookies, some of them replaced."""
    thief = visit(app)
    thief.session.cookies.update(visitor.session.cookies)
    for name, value in cookies.items():
        thief.session.cookies.set(name, value, domain="localhost.local", path="/")
    return thief


def stored(app: Flask, query: Any) -> list[Any]:
    """Return the first column of a query's rows."""
    with app.app_context(), read_session() as session:
        return list(session.scalars(query))


def everything_stored(app: Flask) -> str:
    """Return all tables as one text."""
    with app.app_context(), db.engine.connect() as connection:
        return str([connection.execute(text(f"SELECT * FROM {name}")).all() for name in Base.metadata.tables])


def set_cookies(answer: requests.Response) -> dict[str, Morsel[str]]:
    """Return the cookies that an answer sets, with their attributes."""
    found: dict[str, Morsel[str]] = {}
    for line in answer.raw.headers.getlist("Set-Cookie"):
        found.update(SimpleCookie(line))
    return found


# Passwords


@pytest.mark.proves("R48")
@on_sqlite
@pytest.mark.usefixtures("real_cost", "owner")
def test_a_password_is_stored_as_argon2id_of_at_least_the_advised_cost(app: Flask):
    (password_hash,) = stored(app, select(Admin.password_hash))
    cost = extract_parameters(password_hash)

    assert password_hash.startswith("$argon2id$v=19$")
    assert (cost.memory_cost >= 19 * 1024, cost.time_cost >= 2, cost.parallelism >= 1) == (True, True, True)
    assert (cost.salt_len >= 16, cost.hash_len >= 32) == (True, True)
    assert ADMIN_PASSWORD not in everything_stored(app)


@pytest.mark.proves("R48")
@on_sqlite
@pytest.mark.usefixtures("real_cost", "owner")
def test_a_weaker_hash_is_raised_by_the_right_password_and_by_no_other(app: Flask, visitor: Visitor):
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(ADMIN_PASSWORD)
    with app.app_context(), write_transaction() as session:
        session.execute(update(Admin).values(password_hash=weak))

    assert try_password(visitor).status_code == 401
    assert stored(app, select(Admin.password_hash)) == [weak]

    assert try_password(visitor, ADMIN_PASSWORD).status_code == 303
    (raised,) = stored(app, select(Admin.password_hash))
    assert (extract_parameters(raised).memory_cost, extract_parameters(raised).time_cost) == (19 * 1024, 2)

    assert try_password(visit(app), ADMIN_PASSWORD).status_code == 303
    assert stored(app, select(Admin.password_hash)) == [raised]


@on_sqlite
def test_a_long_password_counts_to_its_last_character(app: Flask):
    password = "pq" * (LONGEST_PASSWORD // 2)
    with app.app_context():
        create_admin(ADMIN_EMAIL, password)

    assert try_password(visit(app), password[:-1]).status_code == 401
    assert try_password(visit(app), password + "p").status_code == 401
    assert try_password(visit(app), password).status_code == 303


@on_sqlite
@pytest.mark.parametrize(
    "password", [" spaces around it ", "Пароль из слов 🔑", "a" * 64 + "b" * 64, "%00<script>&amp;+"]
)
def test_every_character_of_a_password_counts(app: Flask, password: str):
    with app.app_context():
        create_admin(ADMIN_EMAIL, password)

    assert try_password(visit(app), password.strip(" ")).status_code == (
        401 if password != password.strip(" ") else 303
    )
    assert try_password(visit(app), password.swapcase()).status_code == 401
    assert try_password(visit(app), password).status_code == 303


@on_sqlite
@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize("email", [ADMIN_EMAIL.upper(), f"  {ADMIN_EMAIL} "])
def test_an_email_address_is_found_however_it_is_typed(visitor: Visitor, email: str):
    assert try_password(visitor, ADMIN_PASSWORD, email).status_code == 303


@pytest.mark.proves("R55")
@on_sqlite
@pytest.mark.usefixtures("owner")
def test_an_unknown_email_and_a_wrong_password_are_told_apart_by_nothing(visitor: Visitor, checks: list[str]):
    def told(email: str) -> tuple[object, ...]:
        answer = try_password(visitor, email=email)
        return answer.status_code, sorted(answer.headers.items()), answer.text.replace(email, "")

    unknown, wrong = told(OTHER_EMAIL), told(ADMIN_EMAIL)

    assert unknown == wrong
    assert unknown[0] == 401
    assert len(checks) == 2
    assert extract_parameters(checks[0]) == extract_parameters(checks[1])


@on_sqlite
def test_only_a_known_hash_lets_somebody_in(app: Flask, visitor: Visitor):
    """The stand-in for unknown people is a hash too; whoever guessed its password would still be nobody."""
    equipped = app.extensions["keap_connect"]
    guessed = equipped.password_hasher.hash("guessed it")
    app.extensions["keap_connect"] = replace(equipped, dummy_hash=guessed)

    assert try_password(visitor, "guessed it").status_code == 401


@pytest.mark.proves("R51")
@on_sqlite
def test_a_fresh_installation_lets_nobody_in_until_a_command_makes_an_admin(app: Flask):
    guesses = [
        (name, word)
        for name in ("admin", "admin@example.com", "root", "admin@localhost", "keap@keap.com", "")
        for word in ("admin", "password", "changeme", "keap", "123456", "")
    ]
    for number, (email, word) in enumerate(guesses):
        stranger = visit(app, address=f"192.0.2.{number}")
        assert try_password(stranger, word, email).status_code in {401, 429}
        assert not is_signed_in(stranger)
    assert stored(app, select(Admin.id)) == []

    with app.app_context():
        assert create_admin(ADMIN_EMAIL, ADMIN_PASSWORD, only_first=True) is not None
        assert create_admin(OTHER_EMAIL, ADMIN_PASSWORD, only_first=True) is None
    assert try_password(visit(app), ADMIN_PASSWORD, OTHER_EMAIL).status_code == 401


# Guessing


@on_postgresql
@pytest.mark.usefixtures("owner")
def test_ten_guesses_at_one_email_are_checked_and_then_none(visitor: Visitor, checks: list[str], clock: MovedClock):
    statuses = [try_password(visitor).status_code for _ in range(ATTEMPTS_PER_EMAIL + 5)]

    refused = try_password(visitor, ADMIN_PASSWORD)
    assert statuses == [401] * ATTEMPTS_PER_EMAIL + [429] * 5
    assert refused.status_code == 429
    assert len(checks) == ATTEMPTS_PER_EMAIL
    assert 0 < int(refused.headers["Retry-After"]) <= 15 * 60
    assert "Too many attempts. Try again in 15 minutes." in refused.text
    clock.advance(seconds=int(refused.headers["Retry-After"]) - 30)
    assert "Too many attempts. Try again in 1 minute." in try_password(visitor).text


@on_postgresql
def test_twenty_guesses_from_one_address_are_checked_whoever_they_name(visitor: Visitor, app: Flask, checks: list[str]):
    statuses = Counter(try_password(visitor, email=f"person{number}@example.com").status_code for number in range(30))

    assert statuses == {401: ATTEMPTS_PER_ADDRESS, 429: 30 - ATTEMPTS_PER_ADDRESS}
    assert len(checks) == ATTEMPTS_PER_ADDRESS
    assert try_password(visit(app, address="192.0.2.7")).status_code == 401


@pytest.mark.usefixtures("owner")
def test_two_instances_on_one_database_count_together(app: Flask, new_app: Callable[[], Flask]):
    instances = [app, new_app()]
    hashers = [count_checks(one) for one in instances]

    statuses = Counter(try_password(visit(one)).status_code for _ in range(ATTEMPTS_PER_EMAIL) for one in instances)

    assert statuses == {401: ATTEMPTS_PER_EMAIL, 429: ATTEMPTS_PER_EMAIL}
    assert [len(hasher.checked) for hasher in hashers] == [ATTEMPTS_PER_EMAIL / 2] * 2


@pytest.mark.parametrize("limit", ["email", "address", "both"])
@on_sqlite
@pytest.mark.usefixtures("owner")
def test_the_owner_gets_in_after_exactly_the_time_that_was_stated(app: Flask, clock: MovedClock, limit: str):
    for number in range({"email": ATTEMPTS_PER_EMAIL, "address": ATTEMPTS_PER_ADDRESS, "both": 10}[limit]):
        try_password(visit(app), email=ADMIN_EMAIL if limit == "email" else f"person{number}@example.com")
        clock.advance(seconds=1)
    for _ in range(ATTEMPTS_PER_EMAIL if limit == "both" else 0):
        try_password(visit(app))
        clock.advance(seconds=10)

    refused = try_password(visit(app), ADMIN_PASSWORD)
    assert refused.status_code == 429
    clock.advance(seconds=int(refused.headers["Retry-After"]))

    assert try_password(visit(app), ADMIN_PASSWORD).status_code == 303


@on_sqlite
@pytest.mark.usefixtures("owner")
def test_waiting_a_little_less_than_stated_is_not_enough(visitor: Visitor, clock: MovedClock):
    for _ in range(ATTEMPTS_PER_EMAIL):
        try_password(visitor)
    stated = int(try_password(visitor).headers["Retry-After"])

    clock.advance(seconds=stated - 60)

    assert try_password(visitor, ADMIN_PASSWORD).status_code == 429


@on_sqlite
@pytest.mark.usefixtures("owner")
def test_refused_guesses_and_right_passwords_do_not_count(app: Flask, clock: MovedClock):
    for _ in range(ATTEMPTS_PER_ADDRESS + 2):
        assert try_password(visit(app), ADMIN_PASSWORD).status_code == 303
    assert stored(app, select(SignInAttempt.id)) == []

    for _ in range(3 * ATTEMPTS_PER_EMAIL):
        try_password(visit(app))
    # Each concerns an e-mail, an address, all strangers and the history.
    assert len(stored(app, select(SignInAttempt.id))) == 4 * ATTEMPTS_PER_EMAIL


@on_sqlite
def test_attempts_are_forgotten_when_they_no_longer_count(visitor: Visitor, app: Flask, clock: MovedClock):
    try_password(visitor)
    after_one = len(stored(app, select(SignInAttempt.id)))
    clock.advance(seconds=WINDOW.total_seconds() + 1)
    try_password(visitor, email=OTHER_EMAIL)

    assert len(stored(app, select(SignInAttempt.id))) == after_one


@pytest.mark.proves("R98", "R54")
@on_sqlite
def test_addresses_of_one_ipv6_network_are_one_client(app: Flask):
    def guess(number: int, network: str) -> int:
        visitor = visit(app, address=f"{network}::{number:x}")
        return try_password(visitor, email=f"person{number}@example.com").status_code

    statuses = [guess(number, "2001:db8:1:2") for number in range(ATTEMPTS_PER_ADDRESS + 1)]

    assert statuses == [401] * ATTEMPTS_PER_ADDRESS + [429]
    assert guess(99, "2001:db8:1:3") == 401
    assert "2001:db8:1:2::5" in stored(app, select(AccountEvent.actor)), "the history names the whole address"


@pytest.mark.proves("R99")
@on_sqlite
@pytest.mark.usefixtures("owner")
def test_strangers_with_many_addresses_are_checked_and_stored_within_bounds(
    app: Flask, checks: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(passwords, "ATTEMPTS_OF_STRANGERS", 8)
    monkeypatch.setattr(passwords, "REFUSALS_IN_HISTORY", 3)
    owners = visit(app)
    assert try_password(owners, ADMIN_PASSWORD).status_code == 303

    def guess(number: int) -> int:
        return try_password(visit(app, address=f"192.0.2.{number}"), email=f"p{number}@example.com").status_code

    assert [guess(number) for number in range(10)] == [401] * 8 + [429] * 2
    assert len(checks) == 1 + 8
    refusals = select(AccountEvent.id).where(AccountEvent.kind == EventKind.ADMIN_SIGN_IN_REFUSED)
    assert len(stored(app, refusals)) == 3
    assert len(stored(app, select(SignInAttempt.id))) == 3 * 8 + 3
    assert caplog.text.count("A sign-in was refused from") == 8, "the log has each of them"
    del owners.token
    assert try_password(owners, ADMIN_PASSWORD).status_code == 303, "her own browser is no stranger"


@pytest.mark.proves("R99")
@on_sqlite
def test_sign_ins_of_one_owner_are_bounded(app: Flask, clock: MovedClock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sign_ins, "MOST_PER_OWNER", 3)
    with app.app_context():
        admin, other = (create_admin(email, ADMIN_PASSWORD) for email in (ADMIN_EMAIL, OTHER_EMAIL))
        assert admin is not None
        assert other is not None
        others = sign_in_admin(other)
        ids = []
        for _ in range(5):
            clock.advance(seconds=1)
            ids.append(sign_in_admin(admin))

        assert [find_admin(one) is not None for one in ids] == [False, False, True, True, True]
        assert find_admin(others) is not None

        clock.advance(seconds=IDLE_LIMIT.total_seconds())
        sign_in_admin(other)
        assert len(stored(app, select(SignIn.id_hash))) == 1, "what has ended by silence is forgotten"


@pytest.mark.usefixtures("owner")
def test_guesses_at_once_are_not_checked_more_often(app: Flask, checks: list[str]):
    def guess(number: int) -> int:
        return try_password(visit(app, address=f"192.0.2.{number}")).status_code

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        statuses = Counter(pool.map(guess, range(AT_ONCE)))

    assert statuses[401] == ATTEMPTS_PER_EMAIL
    assert statuses.keys() <= SENT_AWAY | {401}
    assert len(checks) == ATTEMPTS_PER_EMAIL


def test_guesses_at_once_from_one_address_are_not_checked_more_often(app: Flask, checks: list[str]):
    def guess(number: int) -> int:
        return try_password(visit(app), email=f"person{number}@example.com").status_code

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        statuses = Counter(pool.map(guess, range(AT_ONCE)))

    assert statuses[401] == ATTEMPTS_PER_ADDRESS
    assert statuses.keys() <= SENT_AWAY | {401}
    assert len(checks) == ATTEMPTS_PER_ADDRESS


@pytest.mark.proves("R54")
@on_sqlite
@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize("addresses", [1, 50])
def test_of_many_guesses_ten_are_checked_and_the_owner_gets_in_afterwards(
    app: Flask, checks: list[str], clock: MovedClock, addresses: int
):
    attackers = [visit(app, address=f"192.0.2.{number}") for number in range(addresses)]

    statuses = Counter(try_password(attackers[number % addresses]).status_code for number in range(GUESSES))
    refused = try_password(visit(app, address="198.51.100.1"), ADMIN_PASSWORD)
    clock.advance(seconds=int(refused.headers["Retry-After"]))

    assert statuses == {401: ATTEMPTS_PER_EMAIL, 429: GUESSES - ATTEMPTS_PER_EMAIL}
    assert len(checks) == ATTEMPTS_PER_EMAIL
    assert try_password(visit(app, address="198.51.100.1"), ADMIN_PASSWORD).status_code == 303


@pytest.mark.proves("R54", "F65")
@on_sqlite
@pytest.mark.usefixtures("owner")
def test_the_owner_gets_in_at_her_usual_browser_while_others_guess(app: Flask):
    owners = visit(app, address="198.51.100.1")
    assert try_password(owners, ADMIN_PASSWORD).status_code == 303
    owners.get("/accounts")
    owners.press("/signout")
    del owners.token
    for number in range(50):
        try_password(visit(app, address=f"192.0.2.{number}"))

    assert try_password(owners, ADMIN_PASSWORD).status_code == 303


@pytest.mark.proves("F66")
@on_sqlite
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.{n}"},
        {"X-Forwarded-For": "203.0.113.{n}, 127.0.0.1"},
        {"X-Real-IP": "203.0.113.{n}", "X-Client-IP": "203.0.113.{n}"},
        {"Forwarded": "for=203.0.113.{n}"},
        {"True-Client-IP": "203.0.113.{n}", "CF-Connecting-IP": "203.0.113.{n}"},
    ],
)
def test_no_header_makes_up_a_network_address(app: Flask, headers: dict[str, str]):
    visitor = visit(app, address="192.0.2.7")
    statuses = []
    for n in range(ATTEMPTS_PER_ADDRESS + 1):
        made_up = {name: value.format(n=n) for name, value in headers.items()}
        statuses.append(try_password(visitor, email=f"person{n}@example.com", **made_up).status_code)

    assert statuses == [401] * ATTEMPTS_PER_ADDRESS + [429]
    assert set(stored(app, select(AccountEvent.actor))) == {"192.0.2.7"}


@pytest.mark.proves("F66")
@on_sqlite
@pytest.mark.parametrize("environ", [{"TRUSTED_PROXIES": "1"}], indirect=True)
def test_behind_a_proxy_its_own_word_counts_and_nothing_before_it(app: Flask):
    proxy = visit(app, address="10.0.0.1")

    def guess(n: int, told: str) -> int:
        return try_password(proxy, email=f"person{n}@example.com", **{"X-Forwarded-For": told}).status_code

    one_client = [guess(n, f"203.0.113.{n}, 198.51.100.9") for n in range(ATTEMPTS_PER_ADDRESS + 1)]
    another = guess(99, "198.51.100.9, 198.51.100.10")

    assert (one_client, another) == ([401] * ATTEMPTS_PER_ADDRESS + [429], 401)
    assert set(stored(app, select(AccountEvent.actor))) == {"198.51.100.9", "198.51.100.10"}


@on_sqlite
def test_sign_ins_and_refusals_stand_in_the_audit(app: Flask, admin: Visitor):
    try_password(visit(app, address="192.0.2.7"), "canary-wrong-password", "canary@example.com")

    with app.app_context(), read_session() as session:
        events = [(one.kind, one.actor, one.details) for one in session.scalars(select(AccountEvent))]
    assert events == [
        ("admin_created", "command line", {"email": ADMIN_EMAIL, "role": "admin"}),
        ("admin_signed_in", ADMIN_EMAIL, {"email": ADMIN_EMAIL, "address": "127.0.0.1"}),
        ("admin_sign_in_refused", "192.0.2.7", {"email": None, "address": "192.0.2.7"}),
    ]


# Sessions


@pytest.fixture
def signed_in(app: Flask, new_visitor: Callable[[], Visitor]) -> dict[str, Visitor]:
    """Give an admin and a customer, each signed in at their own browser."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    admin, customer = new_visitor(), new_visitor()
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    customer.connect()
    return {"admin": admin, "person": customer}


HOME = {"admin": "/accounts", "person": "/your-accounts"}
SIGN_OUT = {"admin": "/signout", "person": "/your-accounts/sign-out"}


def is_in(visitor: Visitor, who: str) -> bool:
    """Whether the page of an admin, or of a customer, opens."""
    page = send(visitor, "GET", HOME[who])
    return page.status_code == 200 and SIGN_OUT[who] in page.text


@on_sqlite
def test_session_ids_are_random_and_kept_as_hashes_only(app: Flask, signed_in: dict[str, Visitor]):
    ids = {signed_in[who].session.cookies[who] for who in signed_in}
    browsers = {visitor.session.cookies["browser"] for visitor in signed_in.values()}
    contents = everything_stored(app)

    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in ids | browsers)
    assert len(ids | browsers) == 4
    assert not any(one in contents for one in ids | browsers)
    assert all(hashlib.sha256(one.encode()).hexdigest() in contents for one in ids)


@on_sqlite
def test_the_stored_hash_of_a_session_signs_nobody_in(app: Flask, signed_in: dict[str, Visitor]):
    for id_hash in stored(app, text("SELECT id_hash FROM sign_in")):
        for who in signed_in:
            assert not is_in(copy_of(visit(app), app, **{who: id_hash}), who)


@pytest.mark.proves("R59", "F60")
@on_sqlite
@pytest.mark.usefixtures("owner")
def test_a_planted_session_id_is_worth_nothing_after_the_sign_in(app: Flask):
    planted = "planted-" + "p" * 35
    victim = copy_of(visit(app), app, admin=planted, person=planted)
    victim.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)

    (session_id,) = [cookie.value for cookie in victim.session.cookies if cookie.name == "admin"]
    assert session_id != planted
    assert is_signed_in(copy_of(visit(app), app, admin=session_id))
    assert not is_signed_in(copy_of(visit(app), app, admin=planted))
    assert not is_in(copy_of(visit(app), app, person=planted), "person")


@pytest.mark.proves("R59")
@on_sqlite
def test_signing_in_again_makes_a_new_session_and_ends_the_old_one(app: Flask, admin: Visitor):
    before = copy_of(admin, app)
    assert is_signed_in(before)

    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)

    assert admin.session.cookies["admin"] != before.session.cookies["admin"]
    assert (is_signed_in(admin), is_signed_in(before)) == (True, False)


@on_sqlite
@pytest.mark.usefixtures("real_cost", "owner")
def test_a_password_that_is_changed_during_the_check_of_the_old_one_stays_the_new_one(
    app: Flask, monkeypatch: pytest.MonkeyPatch
):
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(ADMIN_PASSWORD)
    with app.app_context(), write_transaction() as session:
        session.execute(update(Admin).values(password_hash=weak))
    is_right = passwords._is_right

    def check_and_change(admin: Admin | None, password: str) -> bool:
        found = is_right(admin, password)
        passwords.change_password(get_admin(ADMIN_EMAIL), "another password of mine")
        return found

    monkeypatch.setattr(passwords, "_is_right", check_and_change)
    with app.app_context():
        passwords.verify_password(ADMIN_EMAIL, ADMIN_PASSWORD, "192.0.2.1")

        assert is_right(get_admin(ADMIN_EMAIL), "another password of mine")


@on_sqlite
@pytest.mark.parametrize(
    "end",
    [
        lambda admin: passwords.change_password(admin, "another password of mine"),
        lambda admin: remove_admin(admin.id, "x"),
        lambda _: stop_everything("x"),
    ],
    ids=["changed", "removed", "emergency stop"],
)
def test_a_sign_in_that_is_under_way_when_its_password_ends_opens_no_session(
    app: Flask, end: Callable[[Admin], object]
):
    with app.app_context():
        create_admin("other@example.com", ADMIN_PASSWORD)
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        checked = passwords.verify_password(ADMIN_EMAIL, ADMIN_PASSWORD, "192.0.2.1")
        assert checked is not None
        end(get_admin(ADMIN_EMAIL))

        with pytest.raises(WrongPassword):
            sign_in_admin(checked)

    assert stored(app, select(SignIn.id_hash)) == []


@pytest.mark.proves("R59")
@on_sqlite
def test_connecting_again_makes_a_new_session_and_ends_the_old_one(app: Flask, visitor: Visitor):
    visitor.connect()
    before = copy_of(visitor, app)
    assert is_in(before, "person")

    visitor.connect()

    assert (is_in(visitor, "person"), is_in(before, "person")) == (True, False)


@on_postgresql
@pytest.mark.proves("R60", "F60")
@pytest.mark.parametrize("who", ["admin", "person"])
def test_a_copied_cookie_is_worth_nothing_after_signing_out(app: Flask, signed_in: dict[str, Visitor], who: str):
    visitor = signed_in[who]
    thief = copy_of(visitor, app)
    visitor.get(HOME[who])
    assert is_in(thief, who)

    answer = visitor.press(SIGN_OUT[who], follow=False)

    assert set_cookies(answer)[who]["max-age"] == "0"
    assert not is_in(thief, who)
    assert not is_in(visitor, who)


@on_sqlite
def test_signing_out_leaves_other_browsers_and_the_customers_sign_in_alone(
    app: Flask, new_visitor: Callable[[], Visitor]
):
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    here, there = new_visitor(), new_visitor()
    for visitor in (here, there):
        visitor.connect()
        visitor.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)

    here.press("/signout")

    assert (is_signed_in(here), is_in(here, "person"), is_signed_in(there)) == (False, True, True)


@on_sqlite
def test_an_admin_who_was_deleted_is_out_at_once(app: Flask, admin: Visitor):
    with app.app_context(), write_transaction() as session:
        session.execute(delete(Admin))

    assert not is_signed_in(admin)


@on_sqlite
def test_one_kind_of_session_does_not_serve_as_the_other(app: Flask, signed_in: dict[str, Visitor]):
    as_person = copy_of(visit(app), app, person=signed_in["admin"].session.cookies["admin"])
    as_admin = copy_of(visit(app), app, admin=signed_in["person"].session.cookies["person"])

    assert (is_in(as_person, "person"), is_in(as_admin, "admin")) == (False, False)


@on_postgresql
@pytest.mark.proves("R61")
@pytest.mark.parametrize("who", ["admin", "person"])
def test_an_idle_session_ends_and_a_used_one_goes_on(signed_in: dict[str, Visitor], clock: MovedClock, who: str):
    almost = IDLE_LIMIT.total_seconds() - 60
    visitor = signed_in[who]
    for _ in range(4):
        clock.advance(seconds=almost)
        assert is_in(visitor, who)

    clock.advance(seconds=IDLE_LIMIT.total_seconds() + 1)

    assert not is_in(visitor, who)


@on_sqlite
@pytest.mark.parametrize("who", ["admin", "person"])
def test_a_session_ends_after_half_a_day_however_busy_it_is(signed_in: dict[str, Visitor], clock: MovedClock, who: str):
    step = IDLE_LIMIT.total_seconds() - 60
    steps = int(ABSOLUTE_LIMIT.total_seconds() // step)
    for _ in range(steps):
        clock.advance(seconds=step)
        assert is_in(signed_in[who], who)

    clock.advance(seconds=step)

    assert not is_in(signed_in[who], who)


@pytest.mark.proves("R38", "R61")
@on_sqlite
def test_a_session_from_before_the_clock_was_set_back_by_days_ends(app: Flask, clock: MovedClock):
    clock.advance(days=2)
    with app.app_context():
        admin = create_admin("eve@example.com", ADMIN_PASSWORD)
        session_id = sign_in_admin(admin)
        assert find_admin(session_id)
        clock.advance(minutes=-10)
        assert find_admin(session_id)
        clock.advance(days=-2)
        assert find_admin(session_id) is None


@on_sqlite
def test_sessions_past_their_time_are_deleted(app: Flask, admin: Visitor, clock: MovedClock):
    clock.advance(seconds=ABSOLUTE_LIMIT.total_seconds() + 1)

    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)

    assert len(stored(app, text("SELECT id_hash FROM sign_in"))) == 1


# Cookies


def all_cookies(app: Flask, sandbox: Sandbox) -> dict[str, Morsel[str]]:
    """Walk through everything that sets a cookie, and return each as it was set."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    visitor = visit(app, sandbox)
    found = set_cookies(visitor.get("/signin"))
    found |= set_cookies(visitor.press("/signin", follow=False, email=ADMIN_EMAIL, password=ADMIN_PASSWORD))
    found |= set_cookies(visitor.connect())
    visitor.get("/your-accounts")
    return found | set_cookies(visitor.press("/your-accounts/sign-out", follow=False)) | found


@on_sqlite
@pytest.mark.parametrize(
    ("environ", "prefix", "secure"), [({}, "", ""), (ON_HTTPS, "__Host-", True)], indirect=["environ"]
)
def test_cookies_are_out_of_reach_of_scripts_other_sites_and_other_paths(
    app: Flask, sandbox: Sandbox, prefix: str, secure: bool | str
):
    cookies = all_cookies(app, sandbox)

    assert set(cookies) == {f"{prefix}{name}" for name in ("browser", "admin", "device", "person", "notice")}
    for name, cookie in cookies.items():
        flags = (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"])
        assert flags == (secure, True, "Lax", "/", ""), name
        if not name.endswith("device"):
            assert cookie["max-age"] == cookie["expires"] == "", f"{name} outlives the browser"
        assert len(cookie.OutputString()) < 4096


@on_sqlite
@pytest.mark.parametrize("environ", [ON_HTTPS], indirect=True)
def test_cookies_are_taken_back_under_the_flags_they_were_set_with(app: Flask, admin: Visitor):
    admin.get("/accounts")
    taken_back = set_cookies(admin.press("/signout", follow=False))["__Host-admin"]

    assert (taken_back["secure"], taken_back["path"], taken_back["max-age"]) == (True, "/", "0")
    assert not is_signed_in(admin)


@on_sqlite
@pytest.mark.parametrize("environ", [ON_HTTPS], indirect=True)
def test_a_cookie_without_the_prefix_is_not_read_on_https(app: Flask, admin: Visitor):
    session_id = admin.session.cookies["__Host-admin"]

    assert not is_signed_in(copy_of(visit(app), app, admin=session_id))


@on_sqlite
@pytest.mark.parametrize("value", ["", "a", "a" * 31, "a" * 101, "a" * 4000, "\xe9" * 43, "' OR 1=1 --" + "x" * 40])
def test_a_cookie_that_cannot_be_ours_is_none(app: Flask, value: str):
    for who in ("admin", "person"):
        answer = send(visit(app), "GET", HOME[who], headers={"Cookie": f"{who}={value}".encode("latin-1")})
        assert answer.status_code == {"admin": 303, "person": 200}[who]
        assert SIGN_OUT[who] not in answer.text
