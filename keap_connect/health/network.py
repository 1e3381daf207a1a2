"""Whether Keap can be reached from here over TLS that is valid, the clocks agree, and client addresses are right.

Token expiry follows this machine's clock, leases follow the database's. Rate limits count by client addresses, and the
history shows them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import select

from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.clock import minute, utc_now
from keap_connect.database import database_clock, db, read_session
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.keap.token_endpoint import check_token_endpoint
from keap_connect.services import services
from keap_connect.settings import Settings

MOST_SECONDS_APART = 30
ADVICE = "Set the clocks of this machine and the database's by NTP (`timedatectl set-ntp true`)."
CLIENT_ADDRESS = "client address"


def check_database_clock() -> Iterator[Finding]:
    """Compare PostgreSQL's clock with ours; SQLite has none of its own."""
    if db.engine.dialect.name != "postgresql":
        return
    with read_session() as session:
        theirs = session.execute(select(database_clock())).scalar_one()
    yield compare("database clock", utc_now().timestamp() - theirs)


def compare(subject: str, seconds_ahead: float) -> Finding:
    if abs(seconds_ahead) <= MOST_SECONDS_APART:
        return well(subject, "It agrees with ours within a few seconds.")
    which = f"{abs(seconds_ahead):.0f} seconds {'ahead' if seconds_ahead > 0 else 'behind'}"
    return wrong(subject, f"Our clock is {which}, so tokens seem older or newer than they are.", ADVICE)


def check_connectivity() -> Iterator[Finding]:
    """Send a request without any secret, and judge the answer."""
    host = urlsplit(services().keap.token_url).netloc
    if services().settings.has_unused_proxy and urlsplit(services().keap.token_url).hostname not in LOOPBACK_HOSTS:
        yield attention(
            "proxy",
            "HTTPS_PROXY is set and KEAP_PROXY is not: calls to Keap do not use the proxy.",
            "If this machine reaches Keap through that proxy only, set KEAP_PROXY to the same address.",
        )
    answer = check_token_endpoint(services().keap)
    if answer.problem:
        advice = (
            "Check name service and firewall of this machine, KEAP_PROXY if there is a proxy, and KEAP_CA_FILE if your "
            "company has its own certificate authority. Stored tokens are served meanwhile."
        )
        if services().keap.token_url.startswith(f"{services().settings.sandbox_url}/"):
            advice = "The sandbox does not run: `make run` starts it with the app, `./keap-connect sandbox` alone."
        yield wrong("token endpoint", f"{host}: {answer.problem}", advice)
        return
    if answer.status is not None and answer.status >= 500:
        yield wrong(
            "token endpoint", f"{host} answers {answer.status}.", "Wait: Keap has a problem. See its status page."
        )
    else:
        is_tls = services().keap.token_url.startswith("https://")
        yield well("token endpoint", f"{host} answers{' over TLS' if is_tls else ''}.")
    if answer.date:
        yield compare("clock", (utc_now() - answer.date).total_seconds())


def mark_of(settings: Settings) -> Path:
    """Return the file that is touched when a request comes without its client address."""
    return settings.instance_path / "no-client-address"


def check_proxies() -> Iterator[Finding]:
    settings = services().settings
    if not settings.is_loopback and not settings.trusted_proxies:
        yield attention(
            CLIENT_ADDRESS,
            "PUBLIC_URL is public and TRUSTED_PROXIES is 0: behind a proxy all requests seem to come from the proxy, "
            "so limits count everybody together and the history names the proxy.",
            "Set TRUSTED_PROXIES to the number of proxies in front of the app.",
        )
        return
    if settings.trusted_proxies:
        mark = mark_of(settings)
        came_at = datetime.fromtimestamp(mark.stat().st_mtime if mark.exists() else 0, UTC)
        if came_at > utc_now() - timedelta(days=1):
            yield attention(
                CLIENT_ADDRESS,
                f"At {minute(came_at)} a request came without its client address in X-Forwarded-For.",
                "Configure each proxy to append to X-Forwarded-For, set TRUSTED_PROXIES to their number, and block "
                "direct access to the app.",
            )
            return
    source = "X-Forwarded-For" if settings.trusted_proxies else "the connection"
    yield well(CLIENT_ADDRESS, f"It is taken from {source}.")
