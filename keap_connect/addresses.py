"""Addresses as settings write them: of pages, hosts, people, and the servers that this app connects to.

A function that raises SettingsError lists all that is wrong. It never quotes what may hold a password.
"""

import re
from contextlib import suppress
from difflib import get_close_matches
from email.errors import MessageError
from email.headerregistry import Address, AddressHeader, HeaderRegistry
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from keap_connect.errors import SettingsError

LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]{0,5})?")
WEB_PORTS = {"http": 80, "https": 443}
SMTP_PORTS = {"smtp": 587, "smtps": 465}
UNFIT_DATABASE_URL = (
    "DATABASE_URL is not a valid address: check its host, port and options, and write @ : / ? # & in a "
    "password as %40 %3A %2F %3F %23 %26."
)


def host_name(host: str) -> str | None:
    """Return the name in a Host header, in lower case, without port and trailing dot; None if it is no host."""
    found = HOST.fullmatch(host.lower())
    return found[1].strip("[]") if found else None


def split_url(name: str, value: str) -> SplitResult:
    """Split the address of a page or an endpoint. Raises SettingsError."""
    try:
        parts = urlsplit(value)
        has_host = host_name(parts.netloc.encode("idna").decode()) is not None
        fits = parts.scheme in WEB_PORTS and has_host and (parts.port or True)
    except ValueError:
        fits = False
    if not fits or "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"{name} must be an address like https://host/path, without user, query or fragment.")
    return parts


def normal_origin(parts: SplitResult, name: str = "PUBLIC_URL") -> str:
    """Return scheme, host and port as browsers send and compare them. Raises SettingsError."""
    host = (parts.hostname or "").rstrip(".")
    with suppress(ValueError):
        host = ip_address(host).compressed
    ascii_host = host.encode("idna").decode()
    if not host.isascii() and ascii_host.encode().decode("idna") != host:
        raise SettingsError(f"{name}: write the host name in the form that begins with xn--, as browsers show it.")
    shown = f"[{host}]" if ":" in host else ascii_host
    has_port = parts.port and parts.port != WEB_PORTS[parts.scheme]
    return f"{parts.scheme}://{shown}{f':{parts.port}' if has_port else ''}"


def listening_address(value: str) -> str:
    """Return the IP address to listen on. Raises SettingsError."""
    try:
        return str(ip_address("127.0.0.1" if value == "localhost" else value))
    except ValueError:
        raise SettingsError(f"HOST must be an IP address to listen on, or localhost, not {value[:40]!r}.") from None


def mail_address(text: str) -> Address | None:
    """Return the one address in a text, which may have a name: Acme Sync <connect@example.com>."""
    with suppress(MessageError, ValueError, IndexError):  # the last one is a fault of the standard library
        header = HeaderRegistry()("From", text)
        if isinstance(header, AddressHeader) and not header.defects and len(header.addresses) == 1:
            (address,) = header.addresses
            is_whole = address.username and address.domain and text.isprintable()
            return address if is_whole and address.addr_spec.isascii() else None  # few servers take another one
    return None


def check_proxy(value: str) -> None:
    """Raise SettingsError if calls to Keap cannot go through it."""
    try:
        parts = urlsplit(value)
        fits = parts.scheme in WEB_PORTS and parts.hostname and parts.port and parts.path in {"", "/"}
    except ValueError:
        fits = False
    if not fits or any(sign in value for sign in "?# "):
        raise SettingsError(
            "KEAP_PROXY must be http:// or https:// with host and port, like http://proxy.example.com:3128; a user "
            "and password go before the host, with an @."
        )


def split_smtp_url(value: str) -> SplitResult:
    """Split SMTP_URL. Raises SettingsError."""
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        fits = (
            host and parts.scheme in SMTP_PORTS and parts.path in {"", "/"} and not parts.fragment and parts.port != 0
        )
        fits = fits and parts.query in ({"", "starttls=off"} if parts.scheme == "smtp" else {""})
        fits = fits and bool(parts.username) == bool(parts.password)
        fits = fits and value.isprintable() and " " not in value and bool(host.encode("idna"))
        fits = fits and unquote(f"{parts.username}{parts.password}").isascii()  # SMTP has no others
    except ValueError:
        fits = False
    if not fits:
        raise SettingsError(
            "SMTP_URL must be smtp:// or smtps:// with a host, like smtps://user:password@mail.example.com:465; "
            "write @ : / ? # in a user or password as %40 %3A %2F %3F %23, and use ASCII."
        )
    if parts.query and parts.username and host not in LOOPBACK_HOSTS:
        raise SettingsError(
            "SMTP_URL: ?starttls=off would send the password unprotected. Leave it out, or give no user."
        )
    return parts


def with_driver(value: str) -> str:
    """Return DATABASE_URL with the driver that we have. Raises SettingsError."""
    value = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", value)
    if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise SettingsError("DATABASE_URL must start with sqlite:/// or postgresql://.")
    try:
        url = make_url(value)
        if url.get_backend_name() == "postgresql":
            url.get_dialect()().create_connect_args(url)
        elif url.database in {None, "", ":memory:"}:
            raise SettingsError("DATABASE_URL must name a file, like sqlite:////data/keap_connect.db.")
    except (ArgumentError, ValueError):
        raise SettingsError(UNFIT_DATABASE_URL) from None
    if problems := _wrong_options(url):
        raise SettingsError(*problems)
    return value


def _wrong_options(url: URL) -> list[str]:
    known: list[str] = []  # on SQLite, options either do nothing here or take away what the app relies on
    problems = []
    if url.get_backend_name() == "postgresql":
        import psycopg  # noqa: PLC0415  (SQLite does without it)

        known = [option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()]
        if not str(url.query.get("connect_timeout", "10")).isdigit():
            problems.append("DATABASE_URL: connect_timeout must be a whole number of seconds.")
    unknown = sorted(url.query.keys() - known)
    if unknown and "@" in str(url.query):  # they may be the rest of a password with a ? in it: not quoted
        return [*problems, UNFIT_DATABASE_URL]
    for name in unknown:
        like = "".join(f" Did you mean {word}?" for word in get_close_matches(name, known, 1))
        what = "an option that PostgreSQL does not know" if known else "an option, and SQLite takes none"
        problems.append(f"DATABASE_URL has {what}: {name[:40]!r}.{like}")
    return problems
