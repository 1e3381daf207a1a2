"""The pages of webhooks: admins change them, viewers see them without secrets and without the rest of the URL."""

import re
from datetime import timedelta

from sqlalchemy import update

from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import Delivery
from keap_connect.notifications.endpoints import get_endpoint
from tests.support.engines import on_sqlite
from tests.web.fixtures import World

pytestmark = on_sqlite


def test_an_admin_adds_a_webhook_changes_it_and_removes_it(world: World):
    admin = world.admin
    admin.get("/webhooks/new")
    refused = admin.press("/webhooks/new", url="http://example.com/", name="CRM", types="account.at_risk")
    assert refused.status_code == 422
    assert "The URL must begin with https://. WEBHOOK_PRIVATE_TARGETS=on allows" in refused.text
    assert re.search(r'value="account.at_risk" checked', refused.text)

    made = admin.press("/webhooks/new", url="https://crm.example.com/hook", types="account.at_risk")
    assert made.text.count("whsec_") == 1
    assert "whsec_" not in admin.get("/webhooks/2").text
    admin.get("/webhooks/2/edit")
    admin.press("/webhooks/2/edit", url="https://crm.example.com/other", name="CRM", types="account.recovered")
    with world.app.app_context():
        changed = get_endpoint(2)
        assert (changed.url, changed.types) == ("https://crm.example.com/other", ["account.recovered"])

    def change(act: str) -> str:
        admin.get("/webhooks/2")
        return admin.press("/webhooks/2/change", act=act).text

    assert "whsec_" in change("rotate")
    assert "A test is sent within seconds." in change("test")
    admin.press("/webhooks/2/deliveries/2/redeliver")
    assert "It is sent again within seconds." in admin.text
    assert "Switch on" in change("off")
    assert "Cancelled" in change("on")
    assert "Remove" not in admin.text
    assert "Remove" in change("off")
    assert "The webhook CRM is removed." in change("remove")
    assert admin.get("/webhooks/2").status_code == 404
    admin.get("/webhooks/1")
    assert admin.press("/webhooks/1/change", act="nonsense").status_code == 400


def test_a_viewer_sees_what_was_sent_and_neither_buttons_nor_the_path(world: World):
    with world.app.app_context(), write_transaction() as session:
        record(session, EventKind.RECOVERED, 1, Actor.SYSTEM)

    for_viewer, for_admin = world.viewer.get("/webhooks/1").text, world.admin.get("/webhooks/1").text

    for page in (for_viewer, for_admin):
        assert "account.recovered" in page
        assert "webhook.test" in page
        assert "none yet" in page
    assert "canary-path" in for_admin
    assert "canary-path" in world.admin.get("/webhooks").text  # two webhooks may go to one host
    assert "canary-path" not in for_viewer + world.viewer.get("/webhooks").text
    assert re.findall(r'action="/webhooks[^"]*"', for_viewer) == []
    assert len(re.findall(r'action="/webhooks[^"]*"', for_admin)) == 5


def test_a_delivery_whose_time_has_passed_is_due(world: World):
    def shown(due_in: timedelta) -> list[tuple[str, str]]:
        with world.app.app_context(), write_transaction() as session:
            session.execute(update(Delivery).values(due_at=utc_now() + due_in))
        return re.findall(r"(due )?<time[^>]*>(in 2 h|3 min ago)<", world.admin.get("/webhooks/1").text)

    assert shown(timedelta(hours=2, minutes=1)) == [("", "in 2 h")]
    assert shown(timedelta(minutes=-3)) == [("due ", "3 min ago")]
