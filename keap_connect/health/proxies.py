"""Whether the client addresses are right: rate limits count by them, and the history shows them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keap_connect.clock import utc_now
from keap_connect.health.finding import Finding, attention, well
from keap_connect.services import services
from keap_connect.settings import Settings

SUBJECT = "client address"


def mark_of(settings: Settings) -> Path:
    """Return the file that is touched when a request comes without its client address."""
    return settings.instance_path / "no-client-address"


def check_proxies() -> Iterator[Finding]:
    settings = services().settings
    if not settings.is_loopback and not settings.trusted_proxies:
        yield attention(
            SUBJECT,
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
                SUBJECT,
                f"At {came_at:%Y-%m-%d %H:%M} UTC a request came without its client address in X-Forwarded-For.",
                "Configure each proxy to append to X-Forwarded-For, set TRUSTED_PROXIES to their number, and block "
                "direct access to the app.",
            )
            return
    source = "X-Forwarded-For" if settings.trusted_proxies else "the connection"
    yield well(SUBJECT, f"It is taken from {source}.")
