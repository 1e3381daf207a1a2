"""A server that does not prove who it is gets nothing, and everybody who should know hears of it (F20)."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from keap_connect.database import read_session
from keap_connect.models import Worker
from tests.faults.conftest import Stage, until
from tests.keap.raw_server import RawServer
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
OPENS_AFTER = 5


@pytest.fixture(params=["nobody vouches for it", "it has expired"])
def impostor(request: pytest.FixtureRequest) -> Iterator[RawServer]:
    """Give a server whose certificate is good for nothing."""
    now = datetime.now(UTC)
    days = {"not_before": now - timedelta(days=3), "not_after": now - timedelta(days=1)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = trustme.CA().issue_cert("localhost", **(days if "expired" in request.param else {}))
    certificate.configure_cert(context)
    with RawServer(tls=context) as server:
        yield server


@pytest.mark.proves("F20", "R17", "R32")
def test_no_token_goes_to_a_server_with_a_bad_certificate_and_the_worker_says_why_it_pauses(
    stage: Stage, impostor: RawServer
):
    ids = stage.add_accounts(OPENS_AFTER)
    token_url = f"{impostor.url}/token"
    stage.change(*ids, token_url=token_url)
    stage.environ["KEAP_TOKEN_URL"] = token_url
    (process,) = stage.start(1)

    process.ask("work")
    reason = until(lambda: _pause_reason(stage))
    process.ask("rest")
    impostor.close()

    assert impostor.requests == []
    assert "did not prove who it is" in reason
    assert "SSL certificate" in stage.logs()
    rows = stage.rows()
    assert all(
        (row.failures, row.attempt_fingerprint, row.refusals, row.refused_at) == (1, None, 0, None) for row in rows
    )


def _pause_reason(stage: Stage) -> str | None:
    with stage.app.app_context(), read_session() as session:
        worker = session.query(Worker).one_or_none()
    return worker.pause_reason if worker else None
