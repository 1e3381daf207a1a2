"""Whether Keap's token endpoint can be reached from here, over TLS that is valid."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.clock import utc_now
from keap_connect.health.clocks import compare
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.keap.connectivity import check_token_endpoint
from keap_connect.services import services


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
