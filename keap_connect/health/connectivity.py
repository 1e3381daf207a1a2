"""Whether Keap's token endpoint can be reached from here, over TLS that is valid, and whether the clocks agree.

Token expiry follows this machine's clock, leases follow the database's.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from sqlalchemy import select

from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.clock import utc_now
from keap_connect.database import database_clock, db, read_session
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.keap.connectivity import check_token_endpoint
from keap_connect.services import services

MOST_SECONDS_APART = 30
ADVICE = "Set the clocks of this machine and the database's by NTP (`timedatectl set-ntp true`)."


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
        yield wrong(
            "token endpoint",
            f"{host}: {answer.problem}",
            "Check name service and firewall of this machine, KEAP_PROXY if there is a proxy, and KEAP_CA_FILE if your "
            "company has its own certificate authority. Stored tokens are served meanwhile.",
        )
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
