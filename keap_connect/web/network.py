"""The host name that a request asks for, and the network address that it comes from.

The app answers only under the host name of PUBLIC_URL; probes and /metrics answer under any. Names are compared in
lower case and without a trailing dot (RFC 9110 section 4.2.3). Ports are not compared: proxies and tunnels change them,
and no address is built from them.

REMOTE_ADDR is set to the address of the client; limits, history, logs and audit log read it.

Each proxy appends to X-Forwarded-For the address that it was called from. The app believes the one entry that the
outermost of its own proxies (TRUSTED_PROXIES) wrote: a client can send any header and all entries before that one.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import quote

from flask import request
from werkzeug.exceptions import SecurityError

from keap_connect.addresses import host_name
from keap_connect.clock import seconds_since_boot
from keap_connect.events.history import acting_from
from keap_connect.health.network import mark_of
from keap_connect.logs import reference
from keap_connect.services import services
from keap_connect.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ANY_HOST = frozenset({"/healthz", "/readyz", "/metrics"})
log = logging.getLogger(__name__)
REPORT_EVERY_SECONDS = 3600


def refuse_unknown_host() -> None:
    """Answer 400 to a request under another host name, as if no route matched it."""
    host, expected = request.headers.get("Host", ""), services().settings.host_name
    if host_name(host) != expected and request.path not in ANY_HOST:
        shown = quote(host[:100], safe=":[]") or "missing"
        log.info("%s: the Host header is %s, not %s", reference.get(), shown, expected)
        request.url_rule, request.routing_exception = None, SecurityError()


class ClientAddress:
    """A WSGI layer that sets REMOTE_ADDR to the client's address, or to "" when it is unknown."""

    def __init__(self, app: "WSGIApplication", settings: Settings) -> None:
        self._app = app
        self._proxies = settings.trusted_proxies
        self._mark = mark_of(settings)
        self._report_at = 0.0

    def __call__(self, wsgi_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        address = read_address(wsgi_environ.get("REMOTE_ADDR", ""))
        if self._proxies:
            # Not split by the rules for quoted lists: a client could open a quotation mark and hide the proxy's entry.
            entries = wsgi_environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            forwarded = read_address(entries[-self._proxies]) if len(entries) >= self._proxies else None
            # Probes may come from this machine, around the proxies.
            if forwarded is None and wsgi_environ["PATH_INFO"] not in ANY_HOST:
                self._report_missing()
            address = forwarded or address
        wsgi_environ["REMOTE_ADDR"] = address or ""
        return self._app(wsgi_environ, start_response)

    def _report_missing(self) -> None:
        """Say it in the log and leave a mark for the doctor, once an hour."""
        now = seconds_since_boot()
        if now < self._report_at:
            return
        self._report_at = now + REPORT_EVERY_SECONDS
        log.warning(
            "A request has no client address in X-Forwarded-For at the place that TRUSTED_PROXIES=%s expects.",
            self._proxies,
        )
        with suppress(OSError):
            self._mark.touch(0o600)


@lru_cache(1024)
def read_address(text: str) -> str | None:
    """Return an IP address in its usual form, without port and zone; None if the text is not one.

    `1.2.3.4:567`, `[2001:db8::1]:567` and `fe80::1%eth0` are what some proxies and servers write.
    """
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def note_client_address() -> None:
    """Let the history name the address of a request."""
    acting_from.set(request.remote_addr or None)


def forget_client_address(_error: BaseException | None) -> None:
    """Clear it at the end of a request, because threads are reused."""
    acting_from.set(None)
