"""What is written to the log, in which form, and what never may be."""

import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime

# These print client secret, code and tokens at DEBUG, so they are never let below INFO.
TALKATIVE = ("requests_oauthlib", "oauthlib")
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# What an error page shows of the request it answers; every line that the request leads to carries it.
reference: ContextVar[str | None] = ContextVar("reference", default=None)


def start_logging(level: str, form: str) -> None:
    """Write to standard error, at the level and in the form of the settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines() if form == "JSON" else PlainLines(TEXT))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
    logging.getLogger().setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level)))


class PlainLines(logging.Formatter):
    """Text for people. What came from outside cannot begin a line of its own, nor color the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Write control characters as their codes; the lines of a traceback are our own."""
        return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().formatMessage(record))


class JSONLines(logging.Formatter):
    """One JSON object a line, in ASCII, for programs that collect logs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception, with its traceback, is one field of it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "reference": reference.get(),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None})
