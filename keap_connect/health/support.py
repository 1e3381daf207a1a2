"""The text for those who help with an installation: what it is, how it is set, and what failed lately.

It holds no secret and nothing of customers: what is not named here is not in it. Accounts are numbers.
"""

import json
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from importlib.metadata import distributions
from operator import attrgetter
from textwrap import fill

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.stored_state import count_states
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.deployment import VERSION, connected, find_revisions
from keap_connect.errors import SettingsError
from keap_connect.events.history import EventKind
from keap_connect.events.search import EventView, Search, list_events
from keap_connect.health.examination import examine
from keap_connect.keap.answers import cut
from keap_connect.logs import last_warnings
from keap_connect.notifications.sender import count_waiting
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.services import services
from keap_connect.settings import Settings

# A setting whose value may be secret, or names a person, is only said to be set.
SETTINGS: dict[str, Callable[[Settings], object]] = {
    **{one.metadata["name"]: attrgetter(one.name) for one in fields(Settings) if one.metadata},
    "KEAP_CLIENT_ID": lambda settings: None if settings.sandbox_url else "set",
    "KEAP_CLIENT_SECRET": lambda settings: None if settings.sandbox_url else "set",
    "PUBLIC_URL": lambda settings: settings.public_url,
    "HOST": lambda settings: settings.host,
    "PORT": lambda settings: settings.port,
    "SECRET_KEY": lambda settings: settings.secret_key and "set",
    "TOKEN_KEYS": lambda settings: f"{len(settings.token_keys)} set",
    "DATABASE_URL": lambda settings: "sqlite" if settings.sqlite_file else "postgresql",
    "INSTANCE_PATH": lambda settings: settings.instance_path,
    "INSTANCE_ID": lambda settings: settings.instance_id,
    "RATE_LIMIT_STORAGE": lambda settings: settings.rate_limit_storage.partition("://")[0],
    "AUDIT_LOG": lambda settings: settings.audit_log or "-",
    "SMTP_URL": lambda settings: settings.mail and "set",
    "CONNECT_MODE": lambda settings: "invitation" if settings.is_by_invitation else "open",
    "LOG_FORMAT": lambda settings: settings.log_format,
    "KEAP_AUTHORIZE_URL": lambda settings: settings.keap.authorize_url,
    "KEAP_TOKEN_URL": lambda settings: settings.keap.token_url,
    "KEAP_API_URL": lambda settings: settings.keap.api_url,
    "KEAP_PROXY": lambda settings: settings.keap.proxy and "set",
    "KEAP_CA_FILE": lambda settings: settings.keap.further_authorities and "set",
    "KEAP_PKCE": lambda settings: settings.keap.uses_pkce,
    "KEAP_ISSUER": lambda settings: settings.keap.issuer,
}
# What the proxies say about a request.
HEADERS = ("Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via")
# Their findings quote addresses of people or of receivers.
QUOTING = {"mail", "webhooks"}
# Of clients (IPv4, IPv6), of people, and of servers with a password.
ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b|(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f.]*|[^\s<>\"']+@[^\s<>\"',]+", re.IGNORECASE
)
# Its lines have what Keap, or a stranger instead of Keap, said at a callback; the last failures say how each ended.
STRANGERS = "keap_connect.connect.flows"
NOT_QUOTED = "What it says may name addresses: see `./keap-connect doctor`."
TROUBLE = (
    EventKind.REFRESH_FAILED,
    EventKind.REFRESH_REFUSED_ONCE,
    EventKind.FIRST_REFRESH_REFUSED,
    EventKind.REFRESH_REFUSED_LATE,
    EventKind.REFRESH_REFUSED,
    EventKind.ANSWER_LOST,
    EventKind.CONNECTION_FAILED,
    EventKind.REFRESHING_PAUSED,
)
OF_EACH_KIND = 3
WIDTH = 100


def support_text(address: str | None, headers: Mapping[str, str]) -> str:
    """Return the text. It asks Keap's token endpoint for its time, which takes 10 seconds at most.

    Args:
        address: of the client, as limits and history see it; None without a request.
        headers: of the request.
    """
    shown = {name: _say(show(services().settings)) for name, show in SETTINGS.items()}
    seen = {"client address": address, **{name: headers.get(name) for name in HEADERS}}
    findings = [
        f"{finding.subject}: {finding.health}. {NOT_QUOTED if finding.subject in QUOTING else finding.sentence}"
        for finding in examine(most_bytes=0)
    ]
    return "\n\n".join(
        [
            _program(),
            _section("Database", _facts(_database)),
            _section("Settings", shown),
            _section("Address as seen", seen if address is not None else {"no request": "see the page Support"}),
            _section("Counts", _facts(_counts)),
            "\n".join(["Checks, also of the clocks", *(f"  {cut(line, 400)}" for line in findings)]),
            _section("Last failures", _facts(_failures)),
            "\n".join(["Last warnings of this process", *(f"  {cut(line, 400)}" for line in _warnings())]),
        ]
    )


def support_text_without_app(problems: Sequence[str]) -> str:
    """Return what can be said while the settings are wrong."""
    return "\n\n".join([_program(), "\n".join(["Wrong settings", *(f"  {cut(problem, 400)}" for problem in problems)])])


def _program() -> str:
    packages = sorted(f"{one.metadata['Name']} {one.version}" for one in distributions())
    return _section(
        f"Keap Connect {VERSION}",
        {"time here": utc_now(), "Python": sys.version.partition(" ")[0], "system": platform.platform()},
    ) + fill(", ".join(packages), WIDTH, initial_indent="\n  ", subsequent_indent="  ", break_on_hyphens=False)


def _database() -> dict[str, object]:
    with connected() as connection:
        present, needed = find_revisions(connection, "The database")
        server = ".".join(map(str, connection.dialect.server_version_info or ()))
        return {connection.dialect.name: server, "revision": present, "revision needed": needed}


def _counts() -> dict[str, object]:
    accounts = {f"accounts {state}": number for state, number in count_states().items()}
    waiting = {f"{kind}s waiting": number for kind, number in count_waiting().items()}
    return {**accounts, "workers": len(list_workers()), **waiting}


def _failures() -> dict[str, object]:
    """Return the newest events of each kind, by their time and number."""
    found = [event for kind in TROUBLE for event in list_events(Search(kind=kind), limit=OF_EACH_KIND).rows]
    found.sort(key=lambda event: event.id, reverse=True)
    return {
        f"{_say(event.at)} no. {event.id}": f"account {event.account_id or '-'}: {_sentence(event)}" for event in found
    }


def _sentence(event: EventView) -> str:
    if event.kind != EventKind.CONNECTION_FAILED:
        return event.sentence
    ending = json.loads(event.details or "{}").get("ending")  # the rest may be words of a stranger or ids of tenants
    return f"A person could not connect: {Ending(ending).outcome if ending in set(Ending) else ending}."


def _warnings() -> list[str]:
    lines = [
        f"{at:%Y-%m-%dT%H:%M:%S%z} {level} {name}: {ADDRESS.sub('(address)', message)}"
        for at, level, name, message in last_warnings()
        if name != STRANGERS
    ]
    return lines or ["none: each process has its own, in its log"]


def _facts(read: Callable[[], dict[str, object]]) -> dict[str, object]:
    try:
        return read()
    except (SQLAlchemyError, SettingsError) as problem:
        return {"not read": type(problem).__name__}  # the checks say why


def _section(title: str, facts: Mapping[str, object]) -> str:
    width = max(map(len, facts), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {cut(_say(value), 400)}" for name, value in facts.items())])


def _say(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not set" if value is None else str(value)
