"""A hand-out of an access token is written down before the token leaves; one that cannot be written does not happen."""

import json
import logging
import sys

from flask import Flask, current_app

from keap_connect.clock import utc_now
from keap_connect.errors import HandOutUnrecorded
from keap_connect.events.history import Actor
from keap_connect.events.log_file import LogFile
from keap_connect.settings import Settings

log = logging.getLogger(__name__)


def record_hand_out(
    account_id: int, fingerprint: str, actor: str, address: str | None = None, key_id: int | None = None
) -> None:
    """Write down who is about to get an access token, never the token itself.

    Args:
        fingerprint: of the access token (accounts/credentials.py).
        address: the network address that the token is sent to; None on this machine.
        key_id: of the API key, when a program asked.

    Raises:
        HandOutUnrecorded: it is not written, so the token must not leave.
    """
    line = {
        "at": utc_now().isoformat(timespec="milliseconds"),
        "event": "hand_out",
        "account_id": account_id,
        "fingerprint": fingerprint,
        "actor": actor,
        "key_id": key_id,
        "address": address,
    }
    # The standard output of a command is the token itself.
    standard = sys.stderr if actor == Actor.COMMAND_LINE else sys.stdout
    try:
        current_app.extensions["keap_connect_audit"].add(json.dumps(line).encode() + b"\n", standard)
    except (OSError, ValueError) as problem:  # ValueError: standard output is closed
        log.critical("The audit log cannot be written (%s); no token is handed out.", problem)
        raise HandOutUnrecorded("The hand-out cannot be written into the audit log.") from problem


def rotate_hand_out_log() -> None:
    current_app.extensions["keap_connect_audit"].rotate()


def attach_hand_out_log(app: Flask, settings: Settings) -> None:
    app.extensions["keap_connect_audit"] = LogFile(settings.audit_log, settings.keep_audit_logs_days)
