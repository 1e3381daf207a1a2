"""The log: its form, the reference of each request, and what is never logged."""

import json
import logging
import re
import secrets
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from urllib.parse import quote

from flask import Request

from keap_connect.errors import KeapConnectError

# These print client secret, code and tokens at DEBUG, so their level is at least INFO.
TALKATIVE = ("requests_oauthlib", "oauthlib")
MOST_KEPT = 20
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Links of customers, to choose a password and to get no mail, and API keys that were put where they do not belong.
SECRETS_IN_PATH = re.compile(r"(?<=^/[ri]/).+|(?<=^/new-password/).+|(?<=^/mail/unsubscribe/).+|kc_[0-9a-f]{16}_.*")

# An error page or an error of the API shows it; every line that the request logs carries it.
reference: ContextVar[str | None] = ContextVar("reference", default=None)


def start_logging(level: str, form: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines() if form == "JSON" else PlainLines(TEXT))
    logging.basicConfig(handlers=[handler, _KEPT])
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
    logging.getLogger().setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level)))


def last_warnings() -> list[tuple[datetime, str, str, str]]:
    """Return the newest warnings and errors of this process, oldest first."""
    return list(_KEPT.lines)


def name_request() -> None:
    """Give a request a reference, before anything can refuse it."""
    reference.set(secrets.token_hex(4))


def write_down(log: logging.Logger, request: Request, status: int, error: Exception) -> str:
    """Log the error of a request, with its traceback if the fault is ours, and return the reference of the request."""
    name = reference.get() or secrets.token_hex(4)
    # The text of an error may hold what a person typed, so only its kind is logged.
    where = quote(f"{request.method} {SECRETS_IN_PATH.sub('...', request.path)}"[:200], safe="/ :<>")
    if status >= 500 and (status == 500 or not isinstance(error, KeapConnectError)):
        log.error("%s: %s at %s", name, type(error).__name__, where, exc_info=error)
    else:
        log.info("%s: %s (%s) at %s from %s", name, type(error).__name__, status, where, request.remote_addr)
    return name


class Kept(logging.Handler):
    """Keeps the newest warnings and errors for the support text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        # When, the level, the logger, and the message, without its traceback.
        self.lines: deque[tuple[datetime, str, str, str]] = deque(maxlen=MOST_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        try:
            self.lines.append((at, record.levelname, record.name, record.getMessage()))
        except Exception:  # a library's wrong arguments must not end what it was doing
            self.handleError(record)


_KEPT = Kept()


class PlainLines(logging.Formatter):
    """Text for people. What came from outside can neither start a new line nor change the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Write control characters as their codes; the lines of a traceback are our own."""
        return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().formatMessage(record))


class JSONLines(logging.Formatter):
    """One JSON object a line, in ASCII, for programs that collect logs."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "reference": reference.get(),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None})
