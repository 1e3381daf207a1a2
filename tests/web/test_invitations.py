"""The pages of invitations: admins make and decide them, viewers see them without links and buttons."""

import csv
import io
import re
from urllib.parse import urlsplit

import pytest
import requests
from sqlalchemy import update

from keap_connect.connect import invitation_lists
from keap_connect.connect.invitation_lists import list_invitations
from keap_connect.connect.invitations import NewInvitation, add_invitation, get_invitation
from keap_connect.database import write_transaction
from keap_connect.models import AuthorizationFlow, Invitation
from tests.support.engines import on_sqlite
from tests.web.fixtures import World
from tests.web.inventory import LINK_TOKEN

pytestmark = on_sqlite
LINK = re.compile(r'<input id="link" value="([^"]+)"')


@pytest.mark.proves("R15")
def test_an_admin_invites_confirms_resends_and_withdraws(world: World):
    admin = world.admin
    admin.get("/invitations/new")
    refused = admin.press("/invitations/new", label="Acme", email="nobody")
    assert (refused.status_code, 'value="Acme"' in refused.text) == (422, True)

    for days in ("", "abc", "-1", "9" * 5000):
        refused = admin.press("/invitations/new", label="Acme", email="", valid_days=days)
        assert (refused.status_code, "Enter a number of days." in refused.text) == (422, True)

    made = admin.press("/invitations/new", email="ann@acme.example", needs_confirmation="1", valid_days="3")
    (link,) = LINK.findall(made.text)
    assert 'href="mailto:ann@acme.example?subject=' in made.text
    page = admin.get("/invitations/2").text
    assert urlsplit(link).path not in page
    path = urlsplit(link).path
    world.anonymous.connect(action=path, page=path, person="finn.hale@example.com", tenant="ij345")
    assert "Is this whom you invited?" in admin.get("/invitations/2").text
    assert "finn.hale@example.com" in admin.page.text

    def change(act: str, invitation_id: int = 2) -> str:
        admin.get(f"/invitations/{invitation_id}")
        return admin.press(f"/invitations/{invitation_id}/change", act=act).text

    with world.app.app_context(), write_transaction() as session:
        session.execute(update(AuthorizationFlow).values(pending_grant_sealed=b"edited by somebody"))
    assert "The stored grant does not open" in admin.get("/invitations/2").text
    assert "Declined: the grant is deleted." in change("decline")
    with world.app.app_context(), write_transaction() as session:
        session.execute(update(Invitation).values(is_mailed=True))  # and SMTP_URL is no longer set
    assert len(LINK.findall(change("resend"))) == 1
    assert admin.get(link).status_code == 404
    assert "The invitation is withdrawn" in change("withdraw", 1)
    assert admin.get(f"/i/{LINK_TOKEN}").status_code == 404
    admin.get("/invitations/2")
    assert admin.press("/invitations/2/change", act="nonsense").status_code == 400
    path = urlsplit(LINK.findall(change("resend"))[0]).path
    world.anonymous.connect(action=path, page=path, person="finn.hale@example.com", tenant="ij345")
    assert "<dt>Expires</dt>" in admin.get("/invitations/2").text
    assert "Confirmed: the account is connected." in change("confirm")
    accounts_page = admin.page.url
    assert "<dt>Expires</dt>" not in admin.get("/invitations/2").text
    assert re.findall(r'data-label="Expires">(.)', admin.get("/invitations").text) == ["<", "<"]
    with world.app.app_context():
        assert get_invitation(2).account_id == int(accounts_page.rpartition("/")[2])
    listed = admin.get("/invitations?state=withdrawn").text
    assert "/invitations/1" in listed
    assert "/invitations/2" not in listed
    assert admin.get("/invitations?state=nonsense").status_code == 404


@pytest.mark.proves("R15")
def test_the_list_is_searched_counted_and_filtered(world: World, monkeypatch: pytest.MonkeyPatch):
    with world.app.app_context(), write_transaction() as session:
        for number in range(3):
            wanted = NewInvitation(label=f"Bright Dental {number}", email=f"ann{number}@bright.example")
            add_invitation(session, wanted, "x")

    def found(**query: str) -> list[str]:
        page = world.admin.get("/invitations", params=query).text
        return re.findall(r'href="/invitations/(\d+)"', page)

    assert found() == ["4", "3", "2", "1"]
    assert "All <b>4</b>" in world.admin.page.text
    assert "Sent <b>3</b>" in world.admin.page.text
    for text, ids in {
        "dent": ["4", "3", "2"],
        "ann1": ["3"],
        "bright 2": ["4"],
        "crm:7": ["1"],
        "#2": ["2"],
        "x": [],
    }.items():
        assert found(q=text) == ids, text
    assert found(q="dental", state="opened") == []
    assert "in this state" in world.admin.page.text
    assert found(q="dental", state="sent", before="4") == ["3", "2"]
    assert 'name="state" value="sent"' in world.admin.page.text

    monkeypatch.setattr(invitation_lists, "MOST_COUNTED", 2)
    found()
    assert "Sent <b>2+</b>" in world.admin.page.text


def send_file(world: World, content: str) -> requests.Response:
    admin = world.admin
    admin.get("/invitations/file")
    form = admin.fields("/invitations/file")
    url = f"{admin.base_url}/invitations/file"
    return admin.session.post(url, data=form, files={"file": ("invite.csv", content.encode(), "text/csv")})


def test_a_file_invites_everybody_in_it_or_nobody(world: World):
    broken = "label;external_id;needs_confirmation\nAcme;a;\nBright;b;perhaps\nCedar;a;yes\n;;;x\n"
    refused = send_file(world, broken)
    assert refused.status_code == 422
    for words in (
        "Nobody was invited. Line 3, needs_confirmation: Write yes or no.",
        "Line 4, external_id: The external id is that of line 2.",
        "Line 5, 4: The first line has no name for this column.",
    ):
        assert words in refused.text
    with world.app.app_context():
        assert len(list_invitations(10)[0]) == 1

    made = send_file(world, "Label,external_id,valid days\n=Acme,a,3\nBright,,\n")

    lines = list(csv.DictReader(io.StringIO(made.text)))
    assert made.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert [(one["label"], one["external_id"]) for one in lines] == [("'=Acme", "a"), ("Bright", "")]
    assert all(world.admin.get(one["link"]).status_code == 200 for one in lines)


def test_a_viewer_sees_them_without_links_and_without_buttons(world: World):
    pages = world.viewer.get("/invitations").text + world.viewer.get("/invitations/1").text

    assert "Cedar" in pages
    assert LINK_TOKEN not in pages
    assert re.findall(r'(?:action|href)="/invitations/(?:new|1/change)"', pages) == []
