"""The commands about webhooks."""

import json

from flask import Flask

from keap_connect import counters
from keap_connect.notifications.endpoints import change_endpoint
from keap_connect.refresh.heartbeat import read_counters
from tests.keap.raw_server import RawServer, answering, http
from tests.notifications.conftest import deliveries, send_due
from tests.support.engines import on_sqlite

pytestmark = on_sqlite


def test_a_webhook_is_added_tested_and_listed(app: Flask):
    def run(*arguments: str) -> tuple[int, str]:
        done = app.test_cli_runner().invoke(args=["webhooks", *arguments])
        return done.exit_code, done.stdout

    counters.take()  # of other tests
    with RawServer(answering(http(b""))) as server:
        code, secret = run("add", f"{server.url}/hook", "--type", "account.at_risk", "--name", "CRM")
        assert (code, secret[:6]) == (0, "whsec_")
        assert run("test", "1") == (0, "HTTP 200 OK\n")
        server.script = answering(http(b"", status="500 x"))
        code, printed = run("test", "1", "--json")
        assert (code, json.loads(printed)["answer_code"]) == (1, 500)
        send_due()
        assert len(server.requests) == 2
    change_endpoint(1, "x", {"is_on": False})
    code, printed = run("list", "--json")
    (listed,) = json.loads(printed)

    assert (listed["name"], listed["types"], listed["is_on"]) == ("CRM", ["account.at_risk"], False)
    assert "secret" not in listed
    assert "CRM" not in run("list")[1]
    assert run("add", "http://exa mple.com/")[0] == 1
    assert run("test", "7")[0] == 1
    assert [one.status for one in deliveries()] == ["sent", "given_up"]
    assert read_counters()["deliveries"] == {"webhook sent": 1, "webhook given_up": 1}
