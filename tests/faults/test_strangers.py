"""Customers and strangers come back from Keap while it is slow, at the web server as it runs in production."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.keap.call_slots import MOST_AT_ONCE
from tests.faults.conftest import Stage, until
from tests.flows.stored import token_calls
from tests.support.engines import on_sqlite
from tests.support.real_server import PATIENCE_SECONDS, RealServer, real_server
from tests.web.direct import visit

pytestmark = on_sqlite
CUSTOMERS = 20


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    """Let each customer have an address."""
    return {**environ, "TRUSTED_PROXIES": "1"}


@pytest.fixture
def server(stage: Stage, environ: dict[str, str], ready_command: list[str]) -> Iterator[RealServer]:
    """Give the server that ships."""
    with real_server(environ, "serve", command=ready_command) as running:
        yield running
        stage.sandbox.release()


def come_back(port: int, customer: int, callback_url: str, browser: str) -> tuple[int, str | None]:
    """Load a callback; return the status and when to try again."""
    url = urlsplit(callback_url)
    headers = {"Host": url.netloc, "Cookie": f"browser={browser}", "X-Forwarded-For": f"192.0.2.{customer}"}
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Retry-After"]


@pytest.mark.proves("F93", "R99")
def test_twenty_callbacks_while_keap_is_slow_leave_the_token_api_alone(stage: Stage, server: RealServer):
    (account_id,) = stage.add_accounts(expires_in_seconds=80_000)
    with stage.app.app_context():
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
    arrivals = []
    for number in range(CUSTOMERS):
        customer = visit(stage.app, stage.sandbox, f"192.0.2.{number}")
        callback_url = stage.sandbox.consent(customer.set_out())
        arrivals.append((number, callback_url, customer.session.cookies["browser"]))
    stage.sandbox.clear_ledger()
    stage.sandbox.hold("exchange")

    with ThreadPoolExecutor(CUSTOMERS) as pool:
        coming: list[Future[tuple[int, str | None]]] = [pool.submit(come_back, server.port, *one) for one in arrivals]
        stage.sandbox.wait_held(MOST_AT_ONCE)
        until(lambda: sum(one.done() for one in coming) == CUSTOMERS - MOST_AT_ONCE)
        answers = [server.ask(f"/api/v1/accounts/{account_id}/token", key)[0] for _ in range(20)]
        waiting = stage.sandbox.control("GET", "/held", wait_for=MOST_AT_ONCE, timeout=1)["waiting"]
        stage.sandbox.release()
    came = [one.result() for one in coming]

    assert answers == [200] * 20
    assert waiting == MOST_AT_ONCE
    assert Counter(came) == {(303, None): MOST_AT_ONCE, (503, "10"): CUSTOMERS - MOST_AT_ONCE}
    again = [come_back(server.port, *one) for one, first in zip(arrivals, came, strict=True) if first[0] == 503]
    assert again == [(303, None)] * (CUSTOMERS - MOST_AT_ONCE)
    assert Counter(call["outcome"] for call in token_calls(stage.sandbox)) == {"granted": CUSTOMERS}
