"""The list of all checks, in the order in which one thing depends on another."""

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.connect.client_check import ClientStanding, find_client_check
from keap_connect.deployment import check_deployment, check_file
from keap_connect.errors import DatabaseSilent, SettingsError
from keap_connect.health.clocks import look_at_database_clock
from keap_connect.health.connectivity import check_connectivity
from keap_connect.health.file_systems import look_at_file_systems
from keap_connect.health.files import look_at_audit_log, look_at_disk, look_at_modes, look_at_recovery
from keap_connect.health.finding import Finding, attention, unknown, well, wrong
from keap_connect.health.proxies import look_at_proxies
from keap_connect.health.refreshing import check_refreshing
from keap_connect.services import services

Check = Callable[[], Iterable[Finding]]


def check_client_standing() -> Iterator[Finding]:
    """See what the last check on the page Setup found; this asks nobody."""
    check = find_client_check()
    if check and check.standing is ClientStanding.REFUSED:
        advice = "Correct KEAP_CLIENT_ID and KEAP_CLIENT_SECRET, then check again on the page Setup."
        yield wrong("client", f"Keap refused the client id or the secret. {check.reason}", advice)


ON_DATABASE: tuple[Check, ...] = (look_at_database_clock, check_refreshing, check_client_standing)
REST: tuple[Check, ...] = (
    check_connectivity,
    look_at_modes,
    look_at_audit_log,
    look_at_recovery,
    look_at_disk,
    look_at_file_systems,
    look_at_proxies,
)


def examine() -> list[Finding]:
    """Look at everything that can be looked at. It sends no secret anywhere and changes nothing that is stored."""
    settings = services().settings
    mode = f"the sandbox at {settings.sandbox_url}" if settings.sandbox_url else "Keap"
    findings = [well("settings", f"They are complete; the app speaks to {mode}.")]
    database = list(_look_at_database())
    findings += database
    if all(finding.advice is None or finding.subject == "grants" for finding in database):
        findings += [finding for look in ON_DATABASE for finding in _guarded(look)]
    else:
        findings.append(unknown("workers", "They are looked at once the database is right."))
    return findings + [finding for look in REST for finding in look()]


def list_wrong_settings(problems: list[str]) -> list[Finding]:
    """Return what can be said when the app does not start with its settings."""
    findings = [wrong("settings", problem, "Correct it in .env or the environment.") for problem in problems]
    return [*findings, unknown("everything else", "It is looked at once the settings are right.")]


def _look_at_database() -> Iterator[Finding]:
    try:
        check_file()
        warnings = check_deployment()
    except DatabaseSilent as problem:
        yield wrong("database", str(problem), "Start the database, or correct DATABASE_URL.")
        return
    except SettingsError as problem:
        yield wrong("database", str(problem), "Do what it says, then start all processes anew.")
        return
    except SQLAlchemyError as problem:
        yield wrong("database", f"It fails ({type(problem).__name__}).", "Look at the database's own log.")
        return
    yield well("database", "It answers, and its tables are those of this version.")
    yield well("keys", "TOKEN_KEYS opens what is stored.")
    for warning in warnings:
        yield attention("grants", warning, "Put the old settings back, or send these customers the start page.")


def _guarded(look: Check) -> Iterator[Finding]:
    try:
        yield from look()
    except SQLAlchemyError as problem:
        yield wrong("database", f"It fails ({type(problem).__name__}).", "Look at the database's own log.")
