"""Passwords: which are taken, who may change one, and what a change ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.access import passwords
from keap_connect.access.admins import create_admin, get_admin, remove_admin
from keap_connect.access.passwords import (
    ATTEMPTS_AGAIN,
    ATTEMPTS_PER_DEVICE,
    ATTEMPTS_PER_EMAIL,
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    change_password,
    check_password,
    issue_sign_in_code,
    verify_password,
)
from keap_connect.access.rate_limits import KNOWN_FOR_SECONDS, WRONG_KEYS_PER_MINUTE, is_known_browser_of
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import FormRefused, WrongPassword
from keap_connect.models import Admin
from tests.access.test_sign_in import everything_stored, is_signed_in, stored, try_password
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

NEW = "another password of mine"


@pytest.mark.proves("R52")
@pytest.mark.parametrize(
    "password",
    [
        "twelve chars",
        "correct horse battery staple",
        "a" * 64 + "b" * 64,
        "пароль из слов",
        "🔑🗝" * 6,
        " " * 11 + "x" * 9,
    ],
)
def test_a_long_password_of_any_characters_is_taken(password: str):
    check_password(password, ADMIN_EMAIL)


@pytest.mark.proves("R52", "R105")
@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("elevenchars", "at least 12"),
        ("x" * (LONGEST_PASSWORD + 1), "at most"),
        ("1q2w3e4r5t6y", "most common"),
        ("1Q2W3E4R5T6Y", "most common"),
        ("123456789123", "most common"),
        ("experimental", "most common"),
        ("🔑" * 12, "repeats one character"),
        ("Abcdefghijklmno", "counts up"),
        ("6789012345678", "counts up"),
        ("zyxwvutsrqponm", "counts up or down"),
        ("keapconnect2026", "little more than the name"),
        ("Keap Connect!", "little more than the name"),
        ("InfusionsoftAdmin1", "little more than the name"),
        ("ann.lee@agency.example", "little more than the name"),
        ("AnnLeeAgency123", "little more than the name"),
    ],
)
def test_a_password_that_is_tried_first_is_refused(password: str, words: str):
    with pytest.raises(FormRefused, match=words):
        check_password(password, "ann.lee@agency.example")


@pytest.mark.proves("R52", "R105")
def test_each_password_of_the_shipped_list_is_long_enough_to_matter_and_refused():
    listed = (Path(passwords.__file__).parent / "common_passwords.txt").read_text().splitlines()

    assert len(listed) >= 3000
    assert [one for one in listed if len(one) < SHORTEST_PASSWORD] == []
    for one in listed:
        with pytest.raises(FormRefused):
            check_password(one, ADMIN_EMAIL)


def change(visitor: Visitor, password: str = ADMIN_PASSWORD, new: str = NEW, **fields: str) -> str:
    """Fill in the form that changes the password; return the page that follows."""
    visitor.get("/profile")
    form = {**visitor.fields("/profile/password"), "password": password, "new_password": new, **fields}
    visitor.page = visitor.session.post(visitor.base_url + "/profile/password", data=form)
    return visitor.text


@pytest.fixture
def elsewhere(app: Flask, admin: Visitor) -> Visitor:
    """Give a second browser of the same admin."""
    visitor = visit(app)
    visitor.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    return visitor


@on_postgresql
@pytest.mark.proves("R53")
def test_a_change_wants_the_password_of_now_and_ends_the_other_sign_ins(app: Flask, admin: Visitor, elsewhere: Visitor):
    assert "password is wrong" in change(admin, password="not the password")
    assert is_signed_in(elsewhere)

    assert "new password is set" in change(admin)

    assert (is_signed_in(admin), is_signed_in(elsewhere)) == (True, False)
    assert [try_password(visit(app), one).status_code for one in (ADMIN_PASSWORD, NEW)] == [401, 303]


@pytest.mark.proves("R53")
@on_sqlite
def test_the_other_sign_ins_may_go_on(admin: Visitor, elsewhere: Visitor):
    change(admin, end_others="")

    assert is_signed_in(elsewhere)


@on_sqlite
@pytest.mark.proves("R53", "R94")
@pytest.mark.parametrize(
    "end",
    [
        lambda admin: change_password(admin, "what the other tab has set"),
        lambda admin: remove_admin(admin.id, "x"),
        lambda _: stop_everything("x"),
    ],
    ids=["changed", "removed", "emergency stop"],
)
def test_a_change_that_is_under_way_when_the_password_ends_sets_none(app: Flask, end: Callable[[Admin], object]):
    with app.app_context():
        create_admin("other@example.com", ADMIN_PASSWORD)
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        allowed = get_admin(ADMIN_EMAIL)
        end(get_admin(ADMIN_EMAIL))
        before = stored(app, select(Admin.password_hash))

        with pytest.raises(WrongPassword):
            change_password(allowed, NEW)

    assert stored(app, select(Admin.password_hash)) == before


@pytest.mark.proves("R52")
@on_sqlite
@pytest.mark.parametrize("new", ["short", "1q2w3e4r5t6y", "keapconnect2026"])
def test_a_change_to_a_bad_password_changes_nothing(app: Flask, admin: Visitor, new: str):
    before = stored(app, select(Admin.password_hash))

    change(admin, new=new)

    assert admin.page.status_code == 422
    assert stored(app, select(Admin.password_hash)) == before


@pytest.mark.proves("R52")
@on_sqlite
def test_a_new_password_is_stored_to_its_last_space(app: Flask, admin: Visitor):
    change(admin, new=f"  {NEW} ")

    assert [try_password(visit(app), one).status_code for one in (NEW, f"  {NEW} ")] == [401, 303]


@pytest.mark.proves("R58")
@on_sqlite
def test_a_stolen_cookie_guesses_the_password_only_so_often(admin: Visitor, clock: MovedClock):
    for _ in range(ATTEMPTS_AGAIN):
        change(admin, password="not the password")

    assert "Too many attempts" in change(admin)
    clock.advance(minutes=16)
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    assert "new password is set" in change(admin)


# A link to choose a new password


def redeem(visitor: Visitor, link: str, password: str = NEW) -> int:
    """Open a link and choose a new password; return the status of the answer."""
    return visitor.choose_password(link, password, follow=False).status_code


@on_postgresql
@pytest.mark.proves("R51", "R53")
def test_a_link_works_once_and_ends_all_sign_ins(app: Flask, admin: Visitor, password_link: Callable[[], str]):
    link = password_link()
    assert link.rpartition("/")[2] not in everything_stored(app)
    assert ADMIN_EMAIL in visit(app).get(link).text

    assert redeem(visit(app), link) == 303

    assert not is_signed_in(admin)
    assert redeem(visit(app), link, "a third password of mine") == 404
    assert [try_password(visit(app), one).status_code for one in (ADMIN_PASSWORD, NEW)] == [401, 303]


@pytest.mark.proves("R51")
@on_sqlite
def test_a_link_that_is_old_replaced_or_made_up_opens_nothing(
    app: Flask, admin: Visitor, password_link: Callable[[], str], clock: MovedClock
):
    replaced, newest = password_link(), password_link()

    assert [redeem(visit(app), one) for one in (replaced, "/new-password/made-up", "/new-password/")] == [404, 404, 404]
    clock.advance(hours=24, seconds=1)
    assert redeem(visit(app), newest) == 404


@on_sqlite
def test_a_link_survives_a_bad_password(app: Flask, admin: Visitor, password_link: Callable[[], str]):
    link = password_link()

    assert [redeem(visit(app), link, one) for one in ("short", NEW)] == [422, 303]


@on_sqlite
def test_links_are_not_guessed_for_long(app: Flask, admin: Visitor, password_link: Callable[[], str]):
    link = password_link()
    admin.get(link)
    token = admin.fields(link)

    statuses = [
        send(admin, "POST", f"/new-password/guess-{number}", data={**token, "new_password": NEW}).status_code
        for number in range(WRONG_KEYS_PER_MINUTE.amount + 1)
    ]

    assert statuses == [404] * WRONG_KEYS_PER_MINUTE.amount + [429]


# Browsers that are known


@pytest.mark.proves("R54", "F65")
@on_sqlite
def test_a_known_browser_has_a_budget_and_no_more(app: Flask, admin: Visitor):
    admin.get("/accounts")
    admin.press("/signout")
    statuses = [try_password(admin).status_code for _ in range(ATTEMPTS_PER_DEVICE + 1)]

    assert statuses == [401] * ATTEMPTS_PER_DEVICE + [429]
    assert try_password(visit(app), ADMIN_PASSWORD).status_code == 303


@pytest.mark.proves("R54", "R105")
@on_sqlite
def test_a_browser_is_known_for_half_a_year_and_until_the_password_changes(
    app: Flask, admin: Visitor, elsewhere: Visitor, clock: MovedClock
):
    def is_known(visitor: Visitor) -> bool:
        with app.app_context():
            return is_known_browser_of(get_admin(ADMIN_EMAIL), visitor.session.cookies["device"])

    assert (is_known(admin), is_known(elsewhere)) == (True, True)
    change(admin, end_others="")
    assert (is_known(admin), is_known(elsewhere)) == (True, False)
    clock.advance(seconds=KNOWN_FOR_SECONDS)
    assert not is_known(admin), "although the browser still sends the cookie"


# Sign-in codes


def enter(visitor: Visitor, code: str, password: str = ADMIN_PASSWORD, email: str = ADMIN_EMAIL) -> int:
    """Sign in with a code; return the status of the answer."""
    visitor.get("/signin")
    fields = {"email": email, "password": password, "sign_in_code": code}
    return visitor.press("/signin", follow=False, **fields).status_code


@pytest.fixture
def under_attack(app: Flask, admin: Visitor, other_admin: str) -> Flask:
    """Give the app after strangers have used up the guesses at two admins' passwords."""
    for email in (ADMIN_EMAIL, other_admin):
        for number in range(ATTEMPTS_PER_EMAIL):
            try_password(visit(app, address=f"192.0.2.{number}"), email=email)
    return app


@on_postgresql
@pytest.mark.proves("R54", "R105", "F65")
def test_an_admin_under_attack_gets_in_from_a_new_browser_with_a_code_once(under_attack: Flask, other_admin: str):
    with under_attack.app_context():
        replaced, code = (issue_sign_in_code(ADMIN_EMAIL, "command line") for _ in range(2))
    new = visit(under_attack)
    assert try_password(new, ADMIN_PASSWORD).status_code == 429
    assert "admins sign-in-code" in new.text
    assert code not in everything_stored(under_attack)

    assert [enter(new, one) for one in ("made-up", replaced, code + "x")] == [422] * 3
    assert enter(new, code, email=other_admin) == 422, "it belongs to another admin"
    assert enter(new, code, password="not the password") == 401, "it replaces no password"
    assert enter(new, f" {code} ") == 303
    assert is_signed_in(new)
    assert enter(visit(under_attack), code) == 422, "it was used"
    assert enter(new, "") == 303, "the browser is known from now on"


@pytest.mark.proves("R54")
@on_sqlite
def test_a_code_ends_after_an_hour_and_is_no_way_to_guess_on(under_attack: Flask, clock: MovedClock):
    with under_attack.app_context():
        code = issue_sign_in_code(ADMIN_EMAIL, "command line")

    guesses = [enter(visit(under_attack), code, "not the password") for _ in range(ATTEMPTS_PER_DEVICE + 1)]
    made_up = [enter(visit(under_attack), "made-up") for _ in range(WRONG_KEYS_PER_MINUTE.amount + 1)]
    clock.advance(hours=1, seconds=1)

    assert guesses == [401] * ATTEMPTS_PER_DEVICE + [429]
    assert made_up == [422] * WRONG_KEYS_PER_MINUTE.amount + [429]
    with under_attack.app_context():
        assert verify_password(ADMIN_EMAIL, ADMIN_PASSWORD, "192.0.2.9")
        with pytest.raises(FormRefused):
            verify_password(ADMIN_EMAIL, ADMIN_PASSWORD, "192.0.2.9", sign_in_code=code)


@pytest.mark.proves("R38", "R54")
@on_sqlite
def test_guesses_from_before_the_clock_was_set_back_lock_nobody_out(app: Flask, admin: Visitor, clock: MovedClock):
    stranger = visit(app)
    clock.advance(days=2)
    statuses = [try_password(stranger).status_code for _ in range(ATTEMPTS_PER_EMAIL + 1)]
    clock.advance(days=-2)

    assert statuses[-1] == 429
    assert [try_password(stranger).status_code for _ in range(ATTEMPTS_PER_EMAIL)] == [401] * ATTEMPTS_PER_EMAIL
    assert try_password(stranger).status_code == 429
    clock.advance(days=2)
    assert try_password(stranger).status_code == 401, "nor when that time has come"


@pytest.mark.proves("R54")
@on_sqlite
@pytest.mark.parametrize("device", ["", "x" * 22 + "." + "0" * 64, "no.signature" * 4])
def test_a_made_up_device_has_no_budget_of_its_own(app: Flask, admin: Visitor, device: str):
    stranger = visit(app)
    stranger.session.cookies.set("device", device, domain="localhost.local", path="/")
    statuses = [try_password(stranger).status_code for _ in range(ATTEMPTS_PER_EMAIL + 1)]

    assert statuses[-1] == 429


@pytest.mark.proves("R54")
@on_sqlite
def test_a_device_of_one_admin_is_worth_nothing_at_another_address(app: Flask, admin: Visitor, other_admin: str):
    admin.get("/accounts")
    admin.press("/signout")
    statuses = [try_password(admin, email=other_admin).status_code for _ in range(ATTEMPTS_PER_EMAIL + 1)]

    assert statuses[-1] == 429
    assert try_password(visit(app, address="192.0.2.9"), email=other_admin).status_code == 429
