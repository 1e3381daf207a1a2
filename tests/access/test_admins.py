"""Who the admins are: let in by another with a link, given a role, removed; one who may act always stays."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import func, select

from keap_connect.access.admins import change_role, create_admin, invite_admin, remove_admin
from keap_connect.access.api_keys import Scope, issue_api_key, rotate_api_key
from keap_connect.access.passwords import issue_password_link
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import FormRefused
from keap_connect.models import Admin, APIKey, OneTimeToken, Role, SignIn
from tests.access.test_sign_in import copy_of, is_signed_in, stored
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

NEW = "new@example.com"


def let_in(admin: Visitor, **fields: str) -> str | None:
    """Fill in the form for one more admin; return the link that is shown."""
    admin.get("/admins")
    admin.press("/admins", **{"email": NEW, "role": "viewer", "password": ADMIN_PASSWORD, **fields})
    found = re.search(r'id="link" value="([^"]+/new-password/[\w-]{32})"', admin.page.text)
    return found[1] if found else None


def invited_by_link(app: Flask, admin: Visitor) -> tuple[str, Visitor]:
    """Invite somebody as an admin; return the link and their browser."""
    link = let_in(admin, role="admin")
    assert link is not None
    return link, visit(app)


def act(admin: Visitor, admin_id: int, what: str, password: str = ADMIN_PASSWORD) -> str:
    """Do something about an admin; return the page that follows."""
    admin.get(f"/admins/{admin_id}")
    admin.press(f"/admins/{admin_id}", act=what, password=password)
    return admin.text


@pytest.fixture
def viewer(app: Flask, admin: Visitor, new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give a viewer, signed in; their id is 2."""
    with app.app_context():
        create_admin("viewer@example.com", ADMIN_PASSWORD, role=Role.VIEWER)
    visitor = new_visitor()
    visitor.sign_in("viewer@example.com", ADMIN_PASSWORD)
    return visitor


@on_postgresql
@pytest.mark.proves("R51")
def test_somebody_is_let_in_with_a_link_and_chooses_their_own_password(app: Flask, admin: Visitor):
    link = let_in(admin)
    assert link is not None
    assert link not in admin.get("/admins").text
    assert f"invited by {ADMIN_EMAIL} the invitation ends in 3 d" in admin.text
    newcomer = visit(app)
    assert "Your role is viewer" in [newcomer.get(link), newcomer.text][1]  # as a scanner of mails opens it
    newcomer.choose_password(link, "a password of the new one")

    newcomer.sign_in(NEW, "a password of the new one")

    assert is_signed_in(newcomer)
    assert newcomer.choose_password(link, "the password of another one").status_code == 404
    assert stored(app, select(Admin.role).order_by(Admin.id)) == ["admin", "viewer"]
    assert "invited by" not in [admin.get("/admins"), admin.text][1]
    admin.get("/audit")
    assert f"{NEW} was invited with the role viewer, until" in admin.text
    assert f"{NEW} used the invitation by {ADMIN_EMAIL} and has the role viewer." in admin.text


@on_sqlite
def test_an_invitation_ends_by_time_by_a_newer_link_and_when_it_is_withdrawn(
    app: Flask, admin: Visitor, clock: MovedClock
):
    link, newcomer = invited_by_link(app, admin)
    clock.advance(days=3, seconds=1)
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    assert newcomer.get(link).status_code == 404
    assert "the invitation has expired" in [admin.get("/admins"), admin.text][1]

    act(admin, 2, "invite")
    newer = re.search(r'id="link" value="([^"]+)"', admin.page.text)[1]
    assert [newcomer.get(one).status_code for one in (link, newer)] == [404, 200]
    assert f"The invitation of {NEW} is withdrawn" in act(admin, 2, "withdraw")

    assert newcomer.choose_password(newer, "a password of the new one").status_code == 404
    assert stored(app, select(Admin.email)) == [ADMIN_EMAIL]
    assert let_in(admin), "the address is free again"


@on_sqlite
@pytest.mark.parametrize("what", ["remove", "viewer"])
def test_who_loses_the_role_of_an_admin_leaves_no_invitation_behind(app: Flask, admin: Visitor, what: str):
    link, newcomer = invited_by_link(app, admin)
    newcomer.choose_password(link, "a password of the new one")
    newcomer.sign_in(NEW, "a password of the new one")
    newcomer.get("/admins")
    newcomer.press("/admins", email="third@example.com", role="admin", password="a password of the new one")
    back = re.search(r'id="link" value="([^"]+)"', newcomer.page.text)[1]

    act(newcomer, 1, "link", "a password of the new one")
    back_as_another = re.search(r'id="link" value="([^"]+)"', newcomer.page.text)[1]

    act(admin, 2, what)

    assert [visit(app).get(link).status_code for link in (back, back_as_another)] == [404, 404]
    assert "third@example.com" not in stored(app, select(Admin.email))


END_RIGHTS: dict[str, Callable[[int], object]] = {
    "removed": lambda admin_id: remove_admin(admin_id, "x"),
    "viewer": lambda admin_id: change_role(admin_id, Role.VIEWER, "x"),
    "emergency stop": lambda _: stop_everything("x"),
}


@on_sqlite
@pytest.mark.parametrize("what", END_RIGHTS)
def test_a_request_that_is_under_way_when_an_admin_loses_the_rights_changes_no_admin_and_makes_no_key(
    app: Flask, admin: Visitor, what: str
):
    def rotate() -> object:
        return rotate_api_key(key.row.id, timedelta(0), NEW)

    with app.app_context():
        second, key = create_admin(NEW, ADMIN_PASSWORD), issue_api_key("jobs", list(Scope), "x")
        viewer = create_admin("viewer@example.com", ADMIN_PASSWORD, role=Role.VIEWER)
        END_RIGHTS[what](second.id)

        for make in (  # the request was let in before
            lambda: invite_admin("third@example.com", Role.ADMIN, NEW),
            lambda: issue_password_link(ADMIN_EMAIL, NEW),
            lambda: issue_api_key("another", list(Scope), NEW),
            lambda: change_role(viewer.id, Role.ADMIN, NEW),
            lambda: remove_admin(viewer.id, NEW),
            rotate,
        ):
            with pytest.raises(FormRefused, match="You are no longer an admin"):
                make()

    assert "third@example.com" not in stored(app, select(Admin.email))
    assert stored(app, select(Admin.role).where(Admin.email == viewer.email)) == ["viewer"]
    assert (stored(app, select(OneTimeToken.purpose)), stored(app, select(APIKey.name))) == ([], ["jobs"])


@on_sqlite
def test_somebody_who_is_invited_gets_no_password_link_beside_the_invitation(app: Flask, admin: Visitor):
    link, newcomer = invited_by_link(app, admin)

    assert "Press one of the buttons" in act(admin, 2, "link")

    assert newcomer.get(link).status_code == 200


@on_sqlite
def test_an_invitation_that_was_used_is_not_made_again_or_withdrawn(app: Flask, admin: Visitor, viewer: Visitor):
    for what in ("invite", "withdraw"):
        assert "There is no such admin" in act(admin, 2, what)

    assert is_signed_in(viewer)


@pytest.mark.proves("R58")
@on_sqlite
def test_a_stolen_cookie_alone_lets_nobody_in_and_changes_no_role(app: Flask, admin: Visitor, viewer: Visitor):
    thief = copy_of(admin, app)

    assert let_in(thief, password="not the password") is None
    for what in ("admin", "remove", "link", "end_sign_ins"):
        assert "password is wrong" in act(thief, 2, what, "not the password")
    assert stored(app, select(Admin.role).order_by(Admin.id)) == ["admin", "viewer"]
    assert is_signed_in(viewer)


@on_sqlite
@pytest.mark.parametrize(
    ("email", "words"),
    [
        ("nobody", "Enter an e-mail address"),
        ("nobody @example.com", "Enter an e-mail address"),
        (ADMIN_EMAIL.upper(), "an admin already"),
        ("invited@example.com", "invited already"),
    ],
)
def test_an_address_that_is_none_or_taken_is_refused(admin: Visitor, email: str, words: str):
    let_in(admin, email="invited@example.com")

    assert let_in(admin, email=email) is None
    assert words in admin.text


@pytest.mark.proves("R69")
@on_sqlite
def test_a_role_that_there_is_not_makes_a_viewer(app: Flask, admin: Visitor):
    let_in(admin, role="owner", is_admin="1")

    assert stored(app, select(Admin.role).order_by(Admin.id)) == ["admin", "viewer"]


@pytest.mark.proves("R57", "R59")
def test_a_new_role_holds_at_once_and_ends_the_sign_ins_of_the_old_one(app: Flask, admin: Visitor, viewer: Visitor):
    assert send(viewer, "GET", "/admins").status_code == 403

    act(admin, 2, "admin")

    assert not is_signed_in(viewer)
    viewer.sign_in("viewer@example.com", ADMIN_PASSWORD)
    assert viewer.get("/admins").status_code == 200


@pytest.mark.proves("R60")
@on_sqlite
def test_whoever_is_removed_is_out_at_once(app: Flask, admin: Visitor, viewer: Visitor):
    assert "can no longer sign in" in act(admin, 2, "remove")

    assert not is_signed_in(viewer)
    assert viewer.sign_in("viewer@example.com", ADMIN_PASSWORD).status_code == 401
    assert admin.get("/admins/2").status_code == 404


@pytest.mark.proves("R61")
@on_sqlite
def test_an_admin_ends_all_sign_ins_of_another(admin: Visitor, viewer: Visitor):
    act(admin, 2, "end_sign_ins")

    assert (is_signed_in(admin), is_signed_in(viewer)) == (True, False)


@on_sqlite
@pytest.mark.parametrize("what", ["viewer", "remove"])
def test_the_last_one_who_may_act_stays(app: Flask, admin: Visitor, viewer: Visitor, what: str):
    assert "This is the last admin" in act(admin, 1, what)

    assert stored(app, select(Admin.role).order_by(Admin.id)) == ["admin", "viewer"]
    assert is_signed_in(admin)


@on_sqlite
@pytest.mark.parametrize("what", ["viewer", "remove"])
def test_whoever_has_no_password_yet_does_not_count_as_one_who_may_act(app: Flask, admin: Visitor, what: str):
    link = let_in(admin, role="admin")
    assert "This is the last admin" in act(admin, 1, what)

    newcomer = visit(app)
    newcomer.choose_password(link, "a password of the new one")

    assert "This is the last admin" not in act(admin, 1, what)


@on_sqlite
def test_whoever_has_no_password_yet_comes_in_with_none(app: Flask, admin: Visitor):
    let_in(admin)

    assert [visit(app).sign_in(NEW, password).status_code for password in ("", "not the password")] == [401, 401]


def test_two_admins_who_demote_each_other_at_once_leave_one(app: Flask, in_parallel: Callable[..., list[object]]):
    with app.app_context():
        ids = [create_admin(f"{name}@example.com", ADMIN_PASSWORD).id for name in ("one", "two")]

    def demote(admin_id: int) -> str:
        with app.app_context():
            try:
                change_role(admin_id, Role.VIEWER, "other")
            except FormRefused:
                return "stayed"
            return "demoted"

    assert sorted(in_parallel(demote, ids)) == ["demoted", "stayed"]


@on_sqlite
def test_an_admin_takes_all_their_rows_along(app: Flask, admin: Visitor, viewer: Visitor):
    with app.app_context():
        remove_admin(2, "test")

    assert stored(app, select(func.count(SignIn.id_hash)).where(SignIn.admin_id == 2)) == [0]


# Where one is signed in


@on_postgresql
@pytest.mark.proves("R61")
def test_everybody_sees_their_own_sign_ins_and_ends_one_or_all_others(app: Flask, admin: Visitor, viewer: Visitor):
    elsewhere = [visit(app, address=f"192.0.2.{number}") for number in (1, 2, 3)]
    for visitor in elsewhere:
        visitor.session.headers["User-Agent"] = "Mozilla/5.0 (Windows NT 10.0) Gecko/20100101 Firefox/140.0"
        visitor.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)

    admin.get("/profile")
    assert admin.text.count("Firefox on Windows 192.0.2.") == 3
    assert "192.0.2.3" in admin.text
    assert "192.0.2.3" not in viewer.get("/profile").text
    newest_first = admin.fields("/profile/sign-ins/end")["ref"]

    admin.press("/profile/sign-ins/end", ref=newest_first)
    assert [is_signed_in(one) for one in elsewhere].count(False) == 1
    admin.get("/profile")
    admin.press("/profile/sign-ins/end", ref="")
    assert [is_signed_in(one) for one in elsewhere] == [False, False, False]
    assert (is_signed_in(admin), is_signed_in(viewer)) == (True, True)


@on_sqlite
@pytest.mark.parametrize("ref", ["%", "_" * 16, "0123456789abcdef"])
def test_nobody_ends_a_sign_in_of_somebody_else(app: Flask, admin: Visitor, viewer: Visitor, ref: str):
    theirs = stored(app, select(SignIn.id_hash).where(SignIn.admin_id == 1))[0][:16]
    for one in (ref, theirs):
        viewer.get("/profile")
        form = {"csrf_token": viewer.fields("/profile/password")["csrf_token"], "ref": one}
        viewer.session.post(viewer.base_url + "/profile/sign-ins/end", data=form)

    assert (is_signed_in(admin), is_signed_in(viewer)) == (True, True)


@pytest.mark.proves("R60")
@on_sqlite
def test_signing_out_clears_what_the_browser_keeps_and_leaves_the_cookies_of_others(admin: Visitor):
    admin.get("/accounts")
    answer = admin.press("/signout", follow=False)

    assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'


@pytest.mark.proves("R57")
@on_sqlite
def test_a_viewer_sees_no_button_that_they_may_not_press(viewer: Visitor):
    viewer.connect()
    shown = [viewer.get(path).text for path in ("/accounts", "/accounts/1", "/profile")]

    for action in ("/refresh", "/disconnect", "/reconnect/", "/complete", "/admins"):
        assert not re.search(rf'(?:action|href)="[^"]*{action}', "".join(shown)), action
