"""Two server processes that share one Redis have one limit between them."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.database import db
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.support.engines import on_sqlite
from tests.support.real_server import real_servers
from tests.support.redis import RedisServer, redis_server  # noqa: F401
from tests.support.sandbox import Sandbox

pytestmark = on_sqlite
# The first is answered by the fast path, the second by Flask.
PATHS = ("/api/v1/accounts/1/token", "/api/v1/accounts/1")
RATE = 10


@pytest.fixture
def environ(environ: dict[str, str], redis_server: RedisServer) -> dict[str, str]:  # noqa: F811
    """Give the environment of an installation whose processes count in one Redis."""
    return {**environ, "RATE_LIMIT_STORAGE": redis_server.url, "API_RATE_PER_MINUTE": str(RATE)}


@pytest.fixture
def keys(settings: Settings, sandbox: Sandbox) -> Iterator[list[str]]:
    """Give two keys for one account."""
    built = create_app(settings)
    with built.app_context():
        store_account(sandbox)
        yield [issue_api_key(name, list(Scope), "x").text for name in ("busy", "calm")]
        db.engine.dispose()


@pytest.mark.proves("R77")
def test_two_processes_share_one_limit_and_go_on_without_redis(
    environ: dict[str, str],
    ready_command: list[str],
    keys: list[str],
    redis_server: RedisServer,  # noqa: F811
):
    busy, calm = keys
    with real_servers(2, environ, [*ready_command, "serve"]) as servers:
        asked = [servers[number % 2].ask(PATHS[number // 2 % 2], busy) for number in range(RATE + 4)]
        guesses = [servers[number % 2].ask(PATHS[1], "kc_guess")[0] for number in range(34)]
        redis_server.stop()
        without = [server.ask(path, calm)[0] for server in servers for path in PATHS]
        redis_server.start()
        again = [servers[number % 2].ask(PATHS[1], calm)[0] for number in range(RATE + 1)]

    assert [status for status, _ in asked] == [200] * RATE + [429] * 4
    assert {json.loads(body)["error"] for _, body in asked[RATE:]} == {"too_many_requests"}
    assert Counter(guesses) == {401: 30, 429: 4}
    assert without == [200] * 4
    assert again == [200] * RATE + [429]
