"""The second factor: what a phone or a recovery code is good for, once, and nothing without the password."""

import logging
import re
from collections.abc import Callable

import pyotp
import pytest
import requests
from flask import Flask
from sqlalchemy import select

from keap_connect.access import second_factor
from keap_connect.access.admins import create_admin, get_admin
from keap_connect.access.passwords import issue_sign_in_code
from keap_connect.access.second_factor import ATTEMPTS_AT_CODE, RECOVERY_CODES, STEP_SECONDS
from keap_connect.clock import utc_now
from keap_connect.errors import FormRefused
from keap_connect.models import Admin, RecoveryCode, Role
from tests.access.test_sign_in import copy_of, everything_stored, is_signed_in, stored
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

pytestmark = on_sqlite


class Phone:
    """An authenticator app that has scanned the key; its clock is the app's."""

    def __init__(self, seed: str) -> None:
        self._totp = pyotp.TOTP(seed)

    def code(self, steps_away: int = 0) -> str:
        """Return what it shows now, or showed some steps ago."""
        return self._totp.at(int(utc_now().timestamp()) + steps_away * STEP_SECONDS)


class Secured:
    """An admin who has switched the second factor on."""

    def __init__(self, admin: Visitor) -> None:
        admin.get("/profile")
        admin.press("/profile/second-factor/new", password=ADMIN_PASSWORD)
        self.seed = (
            admin.fields("/profile/second-factor").get("seed")
            or re.search(r'id="seed" value="(\w+)"', admin.page.text)[1]
        )
        self.phone = Phone(self.seed)
        self.first_code = self.phone.code()
        admin.press("/profile/second-factor", code=self.first_code)
        self.recovery_codes = re.findall(r"<code>([a-z2-7-]{27})</code>", admin.page.text)


@pytest.fixture
def secured(admin: Visitor, clock: MovedClock) -> Secured:
    """Give what the admin has in hand; the code that switched it on is past, and a time step has just begun."""
    in_hand = Secured(admin)
    clock.advance(seconds=5 * STEP_SECONDS - utc_now().timestamp() % STEP_SECONDS)
    return in_hand


def first_step(visitor: Visitor, password: str = ADMIN_PASSWORD) -> Visitor:
    """Give the password."""
    visitor.sign_in(ADMIN_EMAIL, password)
    return visitor


def give(visitor: Visitor, code: str) -> int:
    """Give a code at the second step; return the status of the answer, without following it."""
    visitor.get("/signin/code")
    return visitor.press("/signin/code", follow=False, code=code).status_code


def change(admin: Visitor, path: str, **fields: str) -> requests.Response:
    """Send the form of two-factor authentication, with the right password unless another one is given."""
    admin.get("/profile")
    token = admin.fields("/profile/password")["csrf_token"]
    return admin.session.post(admin.base_url + path, data={"csrf_token": token, "password": ADMIN_PASSWORD, **fields})


@pytest.mark.proves("R56")
def test_the_password_alone_lets_nobody_in_and_the_code_of_the_phone_does(app: Flask, secured: Secured):
    visitor = first_step(visit(app))
    assert visitor.page.url.endswith("/signin/code")
    assert not is_signed_in(visitor)

    assert give(visitor, secured.phone.code()) == 303

    assert is_signed_in(visitor)


@pytest.mark.proves("R56")
@pytest.mark.parametrize("away", [-2, -1, 0, 1, 2])
def test_a_code_may_be_one_step_early_or_late_and_no_more(app: Flask, secured: Secured, away: int):
    visitor = first_step(visit(app))

    assert give(visitor, secured.phone.code(away)) == (303 if abs(away) <= 1 else 401)


@pytest.mark.proves("R56")
def test_no_code_of_the_phone_is_taken_twice_nor_an_older_one_after_it(app: Flask, secured: Secured):
    code, before = secured.phone.code(), secured.phone.code(-1)
    assert give(first_step(visit(app)), code) == 303

    assert [give(first_step(visit(app)), one) for one in (code, before)] == [401, 401]


@pytest.mark.proves("R56")
def test_the_code_that_switched_it_on_is_used_up(admin: Visitor, app: Flask, clock: MovedClock):
    in_hand = Secured(admin)

    assert give(first_step(visit(app)), in_hand.first_code) == 401


@pytest.mark.proves("R56")
def test_each_recovery_code_lets_in_once_however_it_is_typed(app: Flask, secured: Secured):
    first, second, third = secured.recovery_codes[:3]

    assert len(set(secured.recovery_codes)) == RECOVERY_CODES
    typed = [first, second.upper(), f" {third.replace('-', ' ')} ", first, second]
    assert [give(first_step(visit(app)), one) for one in typed] == [303, 303, 303, 401, 401]
    assert len(stored(app, select(RecoveryCode.code_hash))) == RECOVERY_CODES - 3


@pytest.mark.proves("R44", "R56")
def test_seed_and_recovery_codes_are_not_stored_as_they_are(app: Flask, secured: Secured):
    contents = everything_stored(app)

    assert secured.seed not in contents
    assert not [one for one in secured.recovery_codes if one in contents or one.replace("-", "") in contents]


@pytest.mark.proves("R56")
def test_what_was_shown_once_is_not_shown_again(admin: Visitor, secured: Secured):
    shown = admin.get("/profile/second-factor").text + admin.get("/profile").text

    assert secured.seed not in shown
    assert not [one for one in secured.recovery_codes if one in shown]


@pytest.mark.proves("R54", "R56")
def test_codes_are_not_guessed_for_long_while_a_known_browser_has_its_own_budget(
    app: Flask, admin: Visitor, secured: Secured, clock: MovedClock
):
    thief = first_step(visit(app))
    statuses = [give(thief, "000000") for _ in range(ATTEMPTS_AT_CODE + 1)]
    assert statuses == [401] * ATTEMPTS_AT_CODE + [429]
    assert give(thief, secured.phone.code()) == 429

    assert give(first_step(admin), secured.phone.code()) == 303
    assert is_signed_in(admin)


@pytest.mark.proves("R54", "R105")
def test_with_a_sign_in_code_others_wrong_codes_lock_nobody_out(app: Flask, secured: Secured):
    thief = first_step(visit(app))
    assert [give(thief, "000000") for _ in range(ATTEMPTS_AT_CODE + 1)][-1] == 429
    with app.app_context():
        code = issue_sign_in_code(ADMIN_EMAIL, "command line")
    new = visit(app)
    new.get("/signin")
    new.press("/signin", email=ADMIN_EMAIL, password=ADMIN_PASSWORD, sign_in_code=code)
    assert not is_signed_in(new)

    assert give(new, secured.phone.code()) == 303


def test_the_second_step_has_five_minutes(app: Flask, secured: Secured, clock: MovedClock):
    visitor = first_step(visit(app))
    visitor.get("/signin/code")
    clock.advance(minutes=5, seconds=1)

    visitor.press("/signin/code", code=secured.phone.code())

    assert visitor.page.url.endswith("/signin")
    assert not is_signed_in(visitor)


def test_the_cookie_of_the_second_step_is_used_up_and_signs_nobody_in(app: Flask, secured: Secured):
    visitor = first_step(visit(app))
    thief = copy_of(visitor, app, admin=visitor.session.cookies["second-step"])
    assert not is_signed_in(thief)

    assert give(visitor, secured.phone.code()) == 303

    assert thief.get("/signin/code").url.endswith("/signin")


@pytest.mark.proves("R58", "R105")
@pytest.mark.parametrize("path", ["/profile/second-factor/off", "/profile/recovery-codes"])
@pytest.mark.parametrize("wrong", ["password", "code"])
def test_without_both_factors_nothing_about_it_changes(
    admin: Visitor, app: Flask, secured: Secured, path: str, wrong: str
):
    before = stored(app, select(RecoveryCode.code_hash)), stored(app, select(Admin.totp_on_at))

    answer = change(admin, path, **{"code": secured.phone.code(), wrong: "000000"})

    assert answer.status_code == {"password": 401, "code": 422}[wrong]
    assert (stored(app, select(RecoveryCode.code_hash)), stored(app, select(Admin.totp_on_at))) == before


@pytest.mark.proves("R105")
def test_new_recovery_codes_take_both_factors_and_no_code_twice(admin: Visitor, app: Flask, secured: Secured):
    code, before = secured.phone.code(), stored(app, select(RecoveryCode.code_hash))

    answers = [change(admin, "/profile/recovery-codes", code=code) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 422]
    assert "code is wrong, or was used already" in answers[1].text
    after = stored(app, select(RecoveryCode.code_hash))
    assert (len(after), set(after) & set(before)) == (RECOVERY_CODES, set())


@pytest.mark.proves("R58")
def test_it_is_not_set_up_without_the_password(admin: Visitor, app: Flask):
    admin.get("/profile")
    admin.press("/profile/second-factor/new", password="not the password")

    assert "password is wrong" in admin.text
    assert stored(app, select(Admin.totp_seed_sealed)) == [None]


def test_a_wrong_code_does_not_switch_it_on(admin: Visitor, app: Flask, clock: MovedClock):
    admin.get("/profile")
    admin.press("/profile/second-factor/new", password=ADMIN_PASSWORD)
    admin.press("/profile/second-factor", code="000000")

    assert admin.page.status_code == 422
    assert stored(app, select(Admin.totp_on_at)) == [None]


def test_a_code_of_a_key_that_another_tab_replaces_meanwhile_turns_nothing_on(app: Flask):
    """Else the phone would have one key and the account another."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        second_factor.prepare(get_admin(ADMIN_EMAIL))
        allowed = get_admin(ADMIN_EMAIL)
        code = Phone(second_factor.waiting_seed(allowed) or "").code()
        second_factor.prepare(get_admin(ADMIN_EMAIL))

        with pytest.raises(FormRefused, match="Another tab"):
            second_factor.switch_on(allowed, code)

        assert get_admin(ADMIN_EMAIL).totp_on_at is None


def test_switched_off_the_password_is_enough_again(admin: Visitor, app: Flask, secured: Secured):
    change(admin, "/profile/second-factor/off", code=secured.recovery_codes[0])

    assert is_signed_in(first_step(visit(app)))
    assert stored(app, select(RecoveryCode.code_hash)) == []


@pytest.mark.proves("R105")
@pytest.mark.parametrize("environ", [{"REQUIRE_TWO_FACTOR": "on"}], indirect=True)
def test_where_it_is_required_nothing_opens_before_it_is_set_up(admin: Visitor, app: Flask, clock: MovedClock):
    with app.app_context():
        create_admin("viewer@example.com", ADMIN_PASSWORD, role=Role.VIEWER)
    viewer = visit(app)
    viewer.sign_in("viewer@example.com", ADMIN_PASSWORD)
    closed = ("/accounts", "/audit", "/admins", "/import", "/reconnect/1", "/accounts/1/disconnect")
    for visitor in (admin, viewer):
        answers = [send(visitor, "GET", path) for path in closed]
        assert {answer.headers["Location"] for answer in answers} == {"/profile#second-factor"}
    admin.get("/profile")
    assert "You must set it up" in admin.text
    token = admin.fields("/profile/password")["csrf_token"]
    posted = send(
        admin, "POST", "/admins", data={"csrf_token": token, "password": ADMIN_PASSWORD, "email": "x@e.example"}
    )
    assert posted.headers["Location"] == "/profile#second-factor"
    assert len(stored(app, select(Admin.id))) == 2

    secured = Secured(admin)

    assert is_signed_in(admin)
    assert not is_signed_in(viewer)
    assert "Turn off" not in admin.get("/profile").text
    refused = change(admin, "/profile/second-factor/off", code=secured.recovery_codes[0])
    assert (refused.status_code, "is required here, so it stays on" in refused.text) == (422, True)
    assert stored(app, select(Admin.totp_on_at).where(Admin.id == 1)) != [None]
    assert "You must set it up" not in admin.get("/profile").text


@pytest.mark.proves("R53")
def test_a_new_password_does_not_skip_it(
    app: Flask, secured: Secured, new_visitor: Callable[[], Visitor], password_link: Callable[[], str]
):
    visitor = new_visitor()
    visitor.choose_password(password_link(), "a new password of mine")

    visitor.sign_in(ADMIN_EMAIL, "a new password of mine")

    assert visitor.page.url.endswith("/signin/code")
    assert not is_signed_in(visitor)


@pytest.mark.proves("R86", "F68")
def test_no_secret_of_the_door_stands_in_the_log(
    app: Flask, admin: Visitor, clock: MovedClock, password_link: Callable[[], str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    in_hand = Secured(admin)
    clock.advance(seconds=2 * STEP_SECONDS)
    newcomer, password, link = visit(app), "canary password of mine", password_link()
    newcomer.choose_password(link, "canary")
    newcomer.choose_password(link, password)
    newcomer.get(link)
    newcomer.sign_in(ADMIN_EMAIL, password)
    half = newcomer.session.cookies["second-step"]
    statuses = [give(newcomer, one) for one in ("canary-code", in_hand.recovery_codes[0])]

    assert statuses == [401, 303]
    cookies = [newcomer.session.cookies[name] for name in ("admin", "device", "browser")]
    secrets = [in_hand.seed, *in_hand.recovery_codes, link.rpartition("/")[2], password, half, "canary", *cookies]
    assert [one for one in secrets if one in caplog.text] == []
