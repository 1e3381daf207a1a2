"""The list of all checks, in an order in which no check depends on a later one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.access.rate_limits import rate_limits
from keap_connect.connect.client_check import ClientStanding, find_client_check
from keap_connect.connect.flows import list_failures
from keap_connect.deployment import check_deployment, check_file
from keap_connect.errors import DatabaseSilent, SettingsError
from keap_connect.health.files import check_audit_log, check_disk, check_file_systems, check_modes, check_recovery
from keap_connect.health.finding import Finding, Health, attention, well, wrong
from keap_connect.health.network import check_connectivity, check_database_clock, check_proxies
from keap_connect.health.refreshing import check_refreshing, check_unreadable
from keap_connect.notifications.endpoints import list_endpoints
from keap_connect.notifications.mail import find_last_failure
from keap_connect.services import services

Check = Callable[[], Iterable[Finding]]


def check_names() -> Iterator[Finding]:
    """Name what only looks like a setting: it has no effect."""
    for name, meant in services().settings.misspelled.items():
        yield attention("settings", f"{name} is no setting and has no effect.", f"If you mean {meant}, rename it.")


def check_webhooks() -> Iterator[Finding]:
    """Name the webhooks that fail, and those that were switched off for it."""
    for one in list_endpoints():
        if one.failing_since is None:
            continue
        failing = "The page Webhooks has the answers; each message is tried for two days."
        off = "Repair the receiver, then switch it on on the page Webhooks."
        yield attention("webhooks", one.sentence, failing if one.is_on else off)


def check_mail() -> Iterator[Finding]:
    failed = find_last_failure()
    if services().settings.mail is None:
        yield well("mail", "SMTP_URL is not set, so nobody is notified by mail.")
    elif failed:
        sentence = f"The last mail to {failed.recipient} was not sent: {failed.answer}"
        yield attention("mail", sentence, "Send a test mail: ./keap-connect mail test ADDRESS, or on the page Mail.")
    else:
        yield well("mail", "No mail has failed lately.")


def check_client_standing() -> Iterator[Finding]:
    """Judge by the last check on the page Setup; this sends nothing to Keap."""
    check = find_client_check()
    if check and check.standing == ClientStanding.REFUSED:
        advice = "Correct KEAP_CLIENT_ID and KEAP_CLIENT_SECRET, then check again on the page Setup."
        yield wrong("client", f"Keap refused the client id or the secret. {check.reason}", advice)


def check_rate_limits() -> Iterator[Finding]:
    if not rate_limits().is_alive():
        yield attention(
            "rate limits",
            "RATE_LIMIT_STORAGE does not answer, so requests pass without limits.",
            "Start Redis, or correct RATE_LIMIT_STORAGE.",
        )


def check_journeys() -> Iterator[Finding]:
    for failures in list_failures():
        advice = "See who: ./keap-connect audit list --kind connection.failed, or the page Accounts."
        yield attention("connecting", failures.sentence, advice)


ON_DATABASE: tuple[Check, ...] = (
    check_database_clock,
    check_refreshing,
    check_unreadable,
    check_client_standing,
    check_journeys,
    check_webhooks,
    check_mail,
)
REST: tuple[Check, ...] = (
    check_connectivity,
    check_modes,
    check_audit_log,
    check_recovery,
    check_disk,
    check_file_systems,
    check_proxies,
    check_rate_limits,
)


def examine(most_bytes: int | None = None) -> list[Finding]:
    """Run all checks; `most_bytes` is for `check_file`."""
    settings = services().settings
    mode = f"the sandbox at {settings.sandbox_url}" if settings.sandbox_url else "Keap"
    database = list(_guarded(partial(_check_database, most_bytes)))
    if all(finding.advice is None or finding.subject == "grants" for finding in database):
        database += [finding for check in ON_DATABASE for finding in _guarded(check)]
    else:
        database.append(Finding("workers", Health.UNKNOWN, "They are checked once the database is right."))
    rest = [finding for check in REST for finding in _guarded(check)]
    return [well("settings", f"They are complete; the app speaks to {mode}."), *check_names(), *database, *rest]


def list_wrong_settings(problems: Sequence[str]) -> list[Finding]:
    findings = [wrong("settings", problem, "Correct it in .env or the environment.") for problem in problems]
    return [*findings, Finding("everything else", Health.UNKNOWN, "It is checked once the settings are right.")]


def _check_database(most_bytes: int | None) -> Iterator[Finding]:
    try:
        check_file(most_bytes)
        warnings = check_deployment()
    except DatabaseSilent as problem:
        yield wrong("database", str(problem), "Start the database, or correct DATABASE_URL.")
        return
    except SettingsError as problem:
        yield wrong("database", str(problem), "Do what it says, then restart all processes.")
        return
    yield well("database", "It answers, and its tables are those of this version.")
    yield well("keys", "TOKEN_KEYS opens what is stored.")
    for warning in warnings:
        yield wrong("grants", warning, "Put the old settings back, or send these customers reconnect links.")


def _guarded(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except SQLAlchemyError as problem:
        yield wrong("database", f"It fails ({type(problem).__name__}).", "Look at the database's own log.")
    except OSError as problem:
        sentence = f"{problem.filename} cannot be read ({problem.strerror})."
        yield wrong("files", sentence, "Give the user that runs this app access to it.")
