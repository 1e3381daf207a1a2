"""What is written to the log, and what never may be."""

import logging

# These print client secret, code and tokens at DEBUG, so they are never let below INFO.
TALKATIVE = ("requests_oauthlib", "oauthlib")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start_logging(level: str) -> None:
    """Write to standard error, at the level of the settings."""
    logging.basicConfig(format=FORMAT)
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
    logging.getLogger().setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelName(level)))
