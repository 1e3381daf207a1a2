"""A hand-out of an access token is written down before the token leaves; one that cannot be written does not happen."""

import json
import logging

from flask import Flask, current_app

from keap_connect.clock import utc_now
from keap_connect.errors import HandOutUnrecorded
from keap_connect.events.log_file import LogFile
from keap_connect.settings import Settings

log = logging.getLogger(__name__)


class HandOutLog:
    """The audit log of one process."""

    def __init__(self, settings: Settings) -> None:
        self.log_file = LogFile(settings.audit_log)

    def record(
        self, account_id: int, fingerprint: str, actor: str, address: str | None = None, key_id: int | None = None
    ) -> None:
        """Write a hand-out down; see `record_hand_out`."""
        line = {
            "at": utc_now().isoformat(timespec="milliseconds"),
            "event": "hand_out",
            "account_id": account_id,
            "fingerprint": fingerprint,
            "actor": actor,
            "key_id": key_id,
            "address": address,
        }
        try:
            self.log_file.add(json.dumps(line).encode() + b"\n")
        except (OSError, ValueError) as problem:  # ValueError: standard output is closed
            log.critical("The audit log cannot be written (%s); no token is handed out.", problem)
            raise HandOutUnrecorded("The hand-out cannot be written into the audit log.") from problem


def record_hand_out(
    account_id: int, fingerprint: str, actor: str, address: str | None = None, key_id: int | None = None
) -> None:
    """Write down that somebody is about to be handed an access token; never the token itself.

    Args:
        fingerprint: of the access token (accounts/credentials.py).
        actor: who, in the words of the history.
        address: the network address it goes to; None on this machine.
        key_id: of the API key, when a program asked.

    Raises:
        HandOutUnrecorded: it is not written, so the token must not leave.
    """
    hand_out_log().record(account_id, fingerprint, actor, address, key_id)


def attach_hand_out_log(app: Flask, settings: Settings) -> None:
    """Give an app its audit log."""
    app.extensions["keap_connect_audit"] = HandOutLog(settings)


def hand_out_log() -> HandOutLog:
    """Return the current app's."""
    found: HandOutLog = current_app.extensions["keap_connect_audit"]
    return found
