"""Where a Keap token may go: to Keap, over TLS, or to a stand-in on this machine. Nowhere else."""

from urllib.parse import urlsplit

from keap_connect_client.errors import NotKeap

KEAP_HOSTS = frozenset({"api.infusionsoft.com", "api.keap.com"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def check_goes_to_keap(url: str) -> None:
    """Refuse a request to anybody else.

    Raises:
        NotKeap: the address is not https on one of Keap's hosts, nor on loopback.
    """
    parts = urlsplit(url)
    is_keap = parts.scheme == "https" and parts.hostname in KEAP_HOSTS and parts.port in {None, 443}
    if not is_keap and parts.hostname not in LOOPBACK_HOSTS:
        raise NotKeap(f"{parts.hostname} is not one of Keap's hosts, so it gets no token.")
