"""Reads the environment into frozen Settings, and reports all problems at once; nothing else in the app reads it.

What nobody has set comes from the files of `make run` in INSTANCE_PATH, so that every command works beside it.
"""

import base64
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from email.headerregistry import Address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from dotenv import dotenv_values
from sqlalchemy import make_url

from keap_connect import addresses
from keap_connect.errors import SettingsError

ROOT = Path(__file__).parent.parent  # relative paths count from here, since a command may be run from anywhere
DOTENV = ROOT / ".env"
ADDRESSES = "make_run.env"  # in INSTANCE_PATH: the addresses of the last `make run`
KEAP_HOSTS = {"signin.infusionsoft.com", "accounts.infusionsoft.com", "api.infusionsoft.com", "api.keap.com"}
# Keap's host, and the path, which is the same at the sandbox.
KEAP_URLS = {
    "KEAP_AUTHORIZE_URL": ("https://signin.infusionsoft.com", "/app/oauth/authorize"),
    "KEAP_TOKEN_URL": ("https://api.infusionsoft.com", "/token"),
    "KEAP_API_URL": ("https://api.infusionsoft.com", "/crm/rest"),
}
# The sandbox's one client that is always there; it is public, and no other server knows it.
SANDBOX_CLIENT_ID = "sandboxclientid00000000000000001"
SANDBOX_CLIENT_SECRET = "sandboxsecret001"  # noqa: S105
SECRETS = {
    *("KEAP_CLIENT_SECRET", "KEAP_PROXY", "SECRET_KEY", "TOKEN_KEYS", "DATABASE_URL", "ADMIN_PASSWORD"),
    *("RATE_LIMIT_STORAGE", "SMTP_URL"),
}
# What `make run` and other programs read, too: similar names, such as NIX_SSL_CERT_FILE, may be theirs.
OTHERS = {"HTTPS", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "SSL_CERT_FILE"}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PLACEHOLDERS = ("changeme", "change-me", "replace", "secret", "example", "your-")
# How the files begin that browsers show as pictures and that cannot hold a script, as SVG can.
LOGO_TYPES = {"png": rb"\x89PNG\r\n\x1a\n", "jpeg": rb"\xff\xd8\xff", "webp": rb"RIFF.{4}WEBP"}
MOST_LOGO_BYTES = 50 * 1024
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class KeapSettings:
    """Our registration at one authorization server, and where it is."""

    client_id: str
    client_secret: str = field(repr=False)
    authorize_url: str
    token_url: str
    api_url: str
    redirect_uri: str
    issuer: str | None = None
    uses_pkce: bool = False
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    authorities_file: str | None = None  # in place of certifi's
    further_authorities: bytes | None = field(default=None, repr=False)  # PEM

    @property
    def registration(self) -> tuple[str, str]:
        """Client id and token URL: a grant belongs to both."""
        return self.client_id, self.token_url


@dataclass(frozen=True)
class MailSettings:
    """The server that takes our mails, and who they are from."""

    host: str
    port: int
    sender: str  # an address, perhaps with a name: Acme Sync <connect@example.com>
    is_tls: bool = False  # from the first byte
    needs_starttls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Logo:
    """A picture; `kind` is the second half of its media type."""

    kind: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class ServiceSettings:
    """Who asks customers for access, as pages and mails say it."""

    name: str = "Keap Connect"
    logo: Logo | None = None
    support_email: str | None = None
    privacy_url: str | None = None


def read(method: str, name: str, **limits: Any) -> dict[str, Any]:
    """Return how a plain setting, which is no secret, is read: by which method of `_Reader`, within which limits."""
    return {"method": method, "name": name, "limits": limits}


@dataclass(frozen=True)
class Settings:
    """Everything that can be set from outside; `.env.example` explains each name."""

    keap: KeapSettings
    public_url: str
    secret_key: str = field(repr=False)
    token_keys: tuple[bytes, ...] = field(repr=False)
    database_url: str = field(repr=False)
    host: str
    port: int
    sandbox_url: str | None
    instance_path: Path
    instance_id: str | None
    refresh_rate_per_minute: int = field(metadata=read("integer", "REFRESH_RATE_PER_MINUTE", default=600, most=100_000))
    trusted_proxies: int = field(metadata=read("integer", "TRUSTED_PROXIES", default=0, most=10))
    api_rate_per_minute: int = field(metadata=read("integer", "API_RATE_PER_MINUTE", default=6000, most=10_000_000))
    rate_limit_storage: str = field(repr=False)
    audit_log: Path | None
    # For how long things are kept; 0 keeps them for good.
    keep_events_days: int = field(metadata=read("days", "KEEP_EVENTS", default=400, least=30))
    keep_journeys_days: int = field(metadata=read("days", "KEEP_JOURNEYS", default=30))
    keep_links_days: int = field(metadata=read("days", "KEEP_LINKS", default=30))
    keep_audit_logs_days: int = field(metadata=read("days", "KEEP_AUDIT_LOGS", default=90))
    keep_deliveries_days: int = field(metadata=read("days", "KEEP_DELIVERIES", default=30, least=3))
    # Whether webhooks may go to private addresses.
    has_private_webhooks: bool = field(metadata=read("switch", "WEBHOOK_PRIVATE_TARGETS"))
    log_level: str = field(metadata=read("choice", "LOG_LEVEL", choices=LOG_LEVELS, default="INFO"))
    log_format: str
    has_unused_proxy: bool  # the environment names a proxy, and calls to Keap do not use it
    requires_two_factor: bool = field(metadata=read("switch", "REQUIRE_TWO_FACTOR"))
    admin_email: str | None
    admin_password: str | None = field(repr=False)
    mail: MailSettings | None  # without it, nobody gets mail
    mails_customers: bool = field(metadata=read("switch", "CUSTOMER_MAIL"))
    service: ServiceSettings
    is_by_invitation: bool  # nobody connects an account without one
    return_origins: frozenset[str]  # where customers may go back to: scheme, host and port
    misspelled: dict[str, str] = field(compare=False)  # names that are no settings, and the one that each nearly is
    # Where secrets were read from; the doctor checks the modes of these files.
    secret_files: tuple[Path, ...] = field(compare=False)

    @property
    def is_loopback(self) -> bool:
        """Whether only people on this machine can reach the app."""
        return urlsplit(self.public_url).hostname in addresses.LOOPBACK_HOSTS

    @property
    def host_name(self) -> str:
        return addresses.host_name(urlsplit(self.public_url).netloc) or ""

    @property
    def sqlite_file(self) -> Path | None:
        """The file of the database, None on PostgreSQL; a relative path counts as Flask-SQLAlchemy counts it."""
        url = make_url(self.database_url)
        return ROOT / "instance" / (url.database or "") if url.get_backend_name() == "sqlite" else None

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read what `make run` wrote, the project's `.env` (which wins) and the environment (which wins over both).

        Args:
            environ: names and values to read instead of all three.

        Raises SettingsError: something is missing or wrong; it lists every problem.
        """
        if environ is not None:
            return _Reader(environ).settings()
        written = read_dotenv(DOTENV)
        chosen = {name: value for name, value in (written | dict(os.environ)).items() if value.strip()}
        if "https_proxy" in chosen:  # programs accept both spellings
            chosen.setdefault("HTTPS_PROXY", chosen["https_proxy"])
        return _Reader(_written_by_make_run(chosen) | chosen, [DOTENV] if written else []).settings()

    def with_database(self, url: str) -> "Settings":
        """Return these settings for another database. Raises SettingsError: the URL is wrong."""
        reader = _Reader({"DATABASE_URL": url})
        made = replace(self, database_url=reader.database_url())
        if reader.problems:
            raise SettingsError(*reader.problems)
        return made


def read_supervisor() -> tuple[str, float]:
    """Return the socket where systemd wants to hear of this process, or "", and within how many seconds each time.

    Source: sd_notify(3), sd_watchdog_enabled(3).
    """
    return os.environ.get("NOTIFY_SOCKET", ""), int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6


def read_dotenv(path: Path) -> dict[str, str]:
    """Return what a file like `.env` sets; nothing if the file does not exist.

    Raises SettingsError: it cannot be read.
    """
    try:
        found = dotenv_values(path, encoding="utf-8-sig")  # editors on Windows put a mark in front
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not in UTF-8: save it in that encoding.") from None
    except OSError as problem:
        raise SettingsError(f"{path} cannot be read ({problem.strerror}): give this user access.") from None
    return {name: value for name, value in found.items() if value is not None}


def _written_by_make_run(chosen: Mapping[str, str]) -> dict[str, str]:
    folder = ROOT / chosen.get("INSTANCE_PATH", "instance").strip()
    left = read_dotenv(folder / ADDRESSES)
    if chosen.get("PORT", left.get("PORT")) != left.get("PORT"):
        left.pop("PUBLIC_URL", None)  # it was made for the other port
    # Then the reader reports that it cannot read the file, not that there is no key.
    is_closed = os.path.isdir(folder) and not os.access(folder, os.X_OK)
    for name in ("SECRET_KEY", "TOKEN_KEYS"):
        path = folder / name.lower()  # `make run` writes them there
        if not {name, f"{name}_FILE"} & chosen.keys() and (is_closed or os.path.isfile(path)):
            left[f"{name}_FILE"] = str(path)
    return left


class _Reader:
    def __init__(self, environ: Mapping[str, str], secret_files: Sequence[Path] = ()) -> None:
        self.environ = environ
        self.secret_files = list(secret_files)
        self.problems: list[str] = []
        self.known = OTHERS | {f"{name}_FILE" for name in SECRETS}  # further names are added as they are read
        self.instance_path = ROOT / (self.text("INSTANCE_PATH") or "instance")
        for path in (self.instance_path, *self.instance_path.parents):
            if os.path.isfile(path):
                self.problems.append(f"INSTANCE_PATH must be a folder, and {path} is a file: name another place.")

    def settings(self) -> Settings:
        port = self.integer("PORT", default=5000, most=65534, least=1)
        public_url = self.public_url(port)
        is_loopback = urlsplit(public_url).hostname in addresses.LOOPBACK_HOSTS
        keap, sandbox_url = self.keap(public_url, is_loopback, port)
        admin_email, admin_password = self.text("ADMIN_EMAIL"), self.text("ADMIN_PASSWORD", _without_line_end)
        if bool(admin_email) != bool(admin_password):
            self.problems.append("ADMIN_EMAIL and ADMIN_PASSWORD belong together: set both or neither.")
        plain = {
            one.name: getattr(self, one.metadata["method"])(one.metadata["name"], **one.metadata["limits"])
            for one in fields(Settings)
            if one.metadata
        }
        mail = self.mail()
        if plain["mails_customers"] and self.text("SMTP_URL") is None:
            self.problems.append("CUSTOMER_MAIL=on needs SMTP_URL and MAIL_FROM: without them there is no mail.")
        settings = Settings(
            **plain,
            keap=keap,
            public_url=public_url,
            secret_key=self.secret_key(),
            token_keys=self.token_keys(),
            database_url=self.database_url(),
            host=self.parsed(addresses.listening_address, self.text("HOST") or "127.0.0.1") or "",
            port=port,
            sandbox_url=sandbox_url,
            instance_path=self.instance_path,
            instance_id=self.instance_id(),
            rate_limit_storage=self.rate_limit_storage(),
            audit_log=self.audit_log(),
            log_format=self.choice("LOG_FORMAT", ("JSON", "TEXT"), default="TEXT" if is_loopback else "JSON"),
            has_unused_proxy=keap.proxy is None and self.text("HTTPS_PROXY") is not None,
            admin_email=admin_email,
            admin_password=admin_password,
            mail=mail,
            service=self.service(public_url, is_loopback, mail),
            is_by_invitation=self.choice("CONNECT_MODE", ("OPEN", "INVITATION"), default="OPEN") == "INVITATION",
            return_origins=self.return_origins(),
            misspelled=(misspelled := self.misspelled()),
            secret_files=tuple(self.secret_files),
        )
        if self.problems:
            hints = [f"{name} is no setting: did you mean {meant}?" for name, meant in misspelled.items()]
            raise SettingsError(*self.problems, *hints)
        return settings

    def misspelled(self) -> dict[str, str]:
        """Find the names that only look like settings; call it when all settings have been read."""
        unknown = {name for name, value in self.environ.items() if value.strip()} - self.known
        looks_like = {name: get_close_matches(name.upper(), self.known, 1, cutoff=0.84) for name in sorted(unknown)}
        return {name: found[0] for name, found in looks_like.items() if found and found[0] not in OTHERS}

    def text(self, name: str, trimmed: Callable[[str], str] = str.strip) -> str | None:
        self.known.add(name)
        value = trimmed(self.environ.get(name, ""))
        path = self.environ.get(f"{name}_FILE", "").strip() if name in SECRETS else ""
        if value and path:
            self.problems.append(f"{name} and {name}_FILE are both set: keep one of them.")
        elif path:
            try:
                value = trimmed((ROOT / path).read_text(encoding="utf-8-sig"))
                self.secret_files.append(ROOT / path)
            except (OSError, UnicodeDecodeError) as problem:
                self.problems.append(f"{name}_FILE cannot be read ({type(problem).__name__}): check {path}.")
        return value or None

    def credential(self, name: str) -> str | None:
        """Read the client id or secret, in the characters that RFC 6749 appendix A allows."""
        value = self.text(name)
        if value and not re.fullmatch("[ -~]+", value):
            self.problems.append(
                f"{name} has a line break or a character that Keap never gives, which may be invisible: copy it "
                "again, or type it by hand."
            )
        elif value and {value[0], value[-1]} & set("\"'"):
            self.problems.append(f"{name} has quotes around it or at one end: leave them out.")
        return value

    def integer(self, name: str, default: int, most: int, least: int = 0) -> int:
        value = self.text(name) or str(default)
        # Python refuses to read a number of thousands of digits.
        if value.isascii() and value.isdigit() and len(value) <= 20 and least <= int(value) <= most:
            return int(value)
        self.problems.append(f"{name} must be a whole number from {least} to {most}, not {value[:20]!r}.")
        return default

    def days(self, name: str, default: int, least: int = 1) -> int:
        value = self.integer(name, default, most=36_500)
        if 0 < value < least:
            self.problems.append(f"{name} must be {least} days or more, or 0 to keep everything, not {value}.")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name) or default
        if value.upper() not in choices:
            self.problems.append(f"{name} must be one of {', '.join(choices)}, not {value[:20]!r}.")
        return value.upper()

    def switch(self, name: str) -> bool:
        return self.choice(name, ("ON", "OFF"), default="OFF") == "ON"

    def parsed(self, parse: Callable[..., Parsed], *values: str | SplitResult) -> Parsed | None:
        """Return what a function of addresses.py makes of the values; note what it finds wrong."""
        try:
            return parse(*values)
        except SettingsError as refusal:
            self.problems += refusal.problems
            return None

    def public_url(self, port: int) -> str:
        default = f"http://localhost:{port}"
        parts = self.parsed(addresses.split_url, "PUBLIC_URL", (self.text("PUBLIC_URL") or default).rstrip("/"))
        if parts is None:
            return default
        if parts.path:
            self.problems.append("PUBLIC_URL must not have a path: give the app a host name of its own.")
        if parts.scheme == "http" and parts.hostname not in addresses.LOOPBACK_HOSTS:
            self.problems.append(
                "PUBLIC_URL must start with https:// (Keap wants an HTTPS redirect URI; plain http is for "
                "localhost only)."
            )
        return self.parsed(addresses.normal_origin, parts) or default

    def return_origins(self) -> frozenset[str]:
        origins = [one.strip().rstrip("/").lower() for one in (self.text("RETURN_ORIGINS") or "").split(",")]
        found = set()
        for origin in filter(None, origins):
            parts = self.parsed(addresses.split_url, "RETURN_ORIGINS", origin)
            if parts is None:
                continue
            found.add(self.parsed(addresses.normal_origin, parts, "RETURN_ORIGINS") or origin)
            if parts.path or (parts.scheme == "http" and parts.hostname not in addresses.LOOPBACK_HOSTS):
                self.problems.append(
                    "RETURN_ORIGINS must be addresses without a path, separated by commas, like "
                    "https://app.example.com; http:// is for localhost only."
                )
        return frozenset(found)

    def keap(self, public_url: str, is_loopback: bool, port: int) -> tuple[KeapSettings, str | None]:
        client_id, client_secret = self.credential("KEAP_CLIENT_ID"), self.credential("KEAP_CLIENT_SECRET")
        if bool(client_id) != bool(client_secret):
            missing = "KEAP_CLIENT_SECRET" if client_id else "KEAP_CLIENT_ID"
            self.problems.append(f"{missing} is missing: Keap's client id and secret belong together.")
        sandbox_url = None
        sandbox_port = self.integer("SANDBOX_PORT", default=port + 1, most=65535, least=1)
        if not client_id:
            if port == sandbox_port:
                self.problems.append(f"PORT must not be {port}: the sandbox uses that one. Choose another.")
            if not is_loopback:
                self.problems.append(
                    "KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are missing: without them the app speaks to the "
                    "sandbox, and only when PUBLIC_URL is on localhost."
                )
            sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        urls = {
            name: self.keap_url(name, (sandbox_url or host) + path, is_loopback, bool(client_id))
            for name, (host, path) in KEAP_URLS.items()
        }
        if sandbox_url:
            parts = urlsplit(urls["KEAP_AUTHORIZE_URL"])
            sandbox_url = f"{parts.scheme}://{parts.netloc}"
        if proxy := self.text("KEAP_PROXY"):
            self.parsed(addresses.check_proxy, proxy)
        keap = KeapSettings(
            client_id=client_id or SANDBOX_CLIENT_ID,
            client_secret=client_secret or SANDBOX_CLIENT_SECRET,
            authorize_url=urls["KEAP_AUTHORIZE_URL"],
            token_url=urls["KEAP_TOKEN_URL"],
            api_url=urls["KEAP_API_URL"].rstrip("/"),
            redirect_uri=f"{public_url}/callback",
            issuer=self.text("KEAP_ISSUER"),
            uses_pkce=self.switch("KEAP_PKCE"),
            proxy=proxy,
            authorities_file=self.certificates("SSL_CERT_FILE")[0],
            further_authorities=self.certificates("KEAP_CA_FILE")[1],
        )
        return keap, sandbox_url

    def keap_url(self, name: str, default: str, is_loopback: bool, has_client: bool) -> str:
        value = self.text(name)
        parts = self.parsed(addresses.split_url, name, value) if value else None
        if value is None or parts is None:
            return default
        is_keap = parts.scheme == "https" and parts.hostname in KEAP_HOSTS and parts.port in {None, 443}
        if is_keap and not has_client:
            self.problems.append(f"{name} is Keap's own, but KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are missing.")
        elif not is_keap and not (is_loopback and parts.hostname in addresses.LOOPBACK_HOSTS):
            self.problems.append(
                f"{name} must be https on one of Keap's hosts ({', '.join(sorted(KEAP_HOSTS))}); loopback "
                "hosts only while PUBLIC_URL is on localhost."
            )
        return value

    def mail(self) -> MailSettings | None:
        value, sender = self.text("SMTP_URL"), self.text("MAIL_FROM") or ""
        if sender and not addresses.mail_address(sender):
            self.problems.append(
                "MAIL_FROM must be one address, perhaps with a name: Acme Sync <connect@example.com>, "
                f"not {sender[:60]!r}."
            )
        if bool(value) != bool(sender):
            self.problems.append("SMTP_URL and MAIL_FROM belong together: set both, or neither for no mail.")
        parts = self.parsed(addresses.split_smtp_url, value) if value else None
        if parts is None:
            return None
        host = parts.hostname or ""
        return MailSettings(
            host=host,
            port=parts.port or addresses.SMTP_PORTS[parts.scheme],
            sender=sender,
            is_tls=parts.scheme == "smtps",
            needs_starttls=parts.scheme == "smtp" and not parts.query and host not in addresses.LOOPBACK_HOSTS,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    def service(self, public_url: str, is_loopback: bool, mail: MailSettings | None) -> ServiceSettings:
        name, support_email, privacy_url = map(self.text, ("SERVICE_NAME", "SUPPORT_EMAIL", "PRIVACY_URL"))
        if name and not (name.isprintable() and len(name) <= 60):
            self.problems.append("SERVICE_NAME must be one line of at most 60 characters.")
        if support_email and (addresses.mail_address(support_email) or Address()).addr_spec != support_email:
            self.problems.append(
                f"SUPPORT_EMAIL must be one address, like support@example.com, not {support_email[:60]!r}."
            )
        if privacy_url:
            self.parsed(addresses.split_url, "PRIVACY_URL", privacy_url)
        sender = addresses.mail_address(mail.sender) if mail else None
        known_as = (sender and sender.display_name) or (not is_loopback and urlsplit(public_url).hostname)
        return ServiceSettings(name or known_as or ServiceSettings.name, self.logo(), support_email, privacy_url)

    def logo(self) -> Logo | None:
        value = self.text("SERVICE_LOGO")
        try:
            content = (ROOT / value).read_bytes() if value else b""
        except OSError as problem:
            self.problems.append(f"SERVICE_LOGO cannot be read ({type(problem).__name__}): check {value}.")
            return None
        kinds = [kind for kind, start in LOGO_TYPES.items() if re.match(start, content, re.DOTALL)]
        if value and not (kinds and len(content) <= MOST_LOGO_BYTES):
            self.problems.append(
                f"SERVICE_LOGO must be a PNG, JPEG or WebP file of at most {MOST_LOGO_BYTES // 1024} kB: {value}."
            )
        return Logo(kinds[0], content) if kinds else None

    def certificates(self, name: str) -> tuple[str, bytes] | tuple[None, None]:
        """Return the file that a setting names, and what is in it."""
        value = self.text(name)
        try:
            if value:
                ssl.create_default_context(cafile=ROOT / value)
                return str(ROOT / value), (ROOT / value).read_bytes()
        except OSError as problem:  # what is no certificate raises one, too
            self.problems.append(f"{name} must be a file of certificates in PEM ({type(problem).__name__}): {value}.")
        return None, None

    def secret_key(self) -> str:
        value = self.text("SECRET_KEY") or ""
        if len(value) < 32 or len(set(value)) < 8 or value.lower().startswith(PLACEHOLDERS):
            self.problems.append(
                "SECRET_KEY must be at least 32 random characters: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return value

    def token_keys(self) -> tuple[bytes, ...]:
        keys = []
        for number, text in enumerate((self.text("TOKEN_KEYS") or "").split(","), start=1):
            try:
                key = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
            except ValueError:
                key = b""
            if len(key) != 32 or len(set(key)) < 8:
                self.problems.append(
                    f"TOKEN_KEYS: key {number} must be 32 random bytes in base64: "
                    'python -c "import base64, os; print(base64.b64encode(os.urandom(32)).decode())"'
                )
            keys.append(key)
        return tuple(keys)

    def instance_id(self) -> str | None:
        value = self.text("INSTANCE_ID")
        if value and not re.fullmatch(r"[A-Za-z0-9._-]{4,64}", value):
            self.problems.append("INSTANCE_ID must be 4 to 64 letters, digits and . _ -")
        return value

    def audit_log(self) -> Path | None:
        value = self.text("AUDIT_LOG")
        return None if value == "-" else ROOT / value if value else self.instance_path / "audit.log"

    def rate_limit_storage(self) -> str:
        value = self.text("RATE_LIMIT_STORAGE") or "memory://"
        if value != "memory://" and not value.startswith(("redis://", "rediss://")):
            self.problems.append("RATE_LIMIT_STORAGE must be memory://, or start with redis:// or rediss://.")
        return value

    def database_url(self) -> str:
        value = self.text("DATABASE_URL") or f"sqlite:///{self.instance_path / 'keap_connect.db'}"
        return self.parsed(addresses.with_driver, value) or value


def _without_line_end(password: str) -> str:
    """Remove what editors add to a file; a password may begin and end with spaces, but not consist of them."""
    return password.rstrip("\r\n") if password.strip() else ""
