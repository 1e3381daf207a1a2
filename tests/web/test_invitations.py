"""The pages of invitations: admins make and decide them, viewers see them without links and buttons."""

import re
from urllib.parse import urlsplit

import pytest

from keap_connect.connect.invitations import get_invitation
from tests.web.fixtures import World
from tests.web.inventory import LINK_TOKEN

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LINK = re.compile(r'<input id="link" value="([^"]+)"')


@pytest.mark.proves("R15")
def test_an_admin_invites_confirms_resends_and_withdraws(world: World):
    admin = world.admin
    admin.get("/invitations/new")
    refused = admin.press("/invitations/new", label="Acme", email="nobody")
    assert (refused.status_code, 'value="Acme"' in refused.text) == (422, True)

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

    assert "Declined: the grant is deleted." in change("decline")
    assert len(LINK.findall(change("resend"))) == 1
    assert admin.get(link).status_code == 404
    assert "The invitation is withdrawn" in change("withdraw", 1)
    assert admin.get(f"/i/{LINK_TOKEN}").status_code == 404
    admin.get("/invitations/2")
    assert admin.press("/invitations/2/change", act="nonsense").status_code == 400
    path = urlsplit(LINK.findall(change("resend"))[0]).path
    world.anonymous.connect(action=path, page=path, person="finn.hale@example.com", tenant="ij345")
    assert "Confirmed: the account is connected." in change("confirm")
    with world.app.app_context():
        assert get_invitation(2).account_id == int(admin.page.url.rpartition("/")[2])
    listed = admin.get("/invitations?state=withdrawn").text
    assert "/invitations/1" in listed
    assert "/invitations/2" not in listed
    assert admin.get("/invitations?state=nonsense").status_code == 404


def test_a_viewer_sees_them_without_links_and_without_buttons(world: World):
    pages = world.viewer.get("/invitations").text + world.viewer.get("/invitations/1").text

    assert "Cedar" in pages
    assert LINK_TOKEN not in pages
    assert re.findall(r'(?:action|href)="/invitations/(?:new|1/change)"', pages) == []
