"""The app answers only under the host name of PUBLIC_URL; probes and /metrics answer under any.

Names are compared in lower case and without a trailing dot (RFC 9110 section 4.2.3). Ports are not compared: proxies
and tunnels change them, and no address is built from them.
"""

import logging
from urllib.parse import quote

from flask import Flask, request
from werkzeug.exceptions import SecurityError

from keap_connect.addresses import host_name
from keap_connect.logs import reference
from keap_connect.settings import Settings

log = logging.getLogger(__name__)
ANY_HOST = frozenset({"/healthz", "/readyz", "/metrics"})


def refuse_unknown_hosts(app: Flask, settings: Settings) -> None:
    """Answer 400 to a request under another host name, as if no route matched it."""

    @app.before_request
    def refuse() -> None:
        host = request.headers.get("Host", "")
        if host_name(host) == settings.host_name or request.path in ANY_HOST:
            return
        log.info(
            "%s: the Host header is %s, not %s",
            reference.get(),
            quote(host[:100], safe=":[]") or "missing",
            settings.host_name,
        )
        request.url_rule, request.routing_exception = None, SecurityError()
