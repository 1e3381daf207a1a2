"""Whether Keap's token endpoint knows our client: checked with an impossible code, so that no code is used up."""

import hmac
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.keap.answers import Verdict
from keap_connect.keap.token_endpoint import exchange_code
from keap_connect.models import CheckedClient
from keap_connect.services import keyed_hash, services


class ClientStanding(StrEnum):
    """What Keap's answer shows about the client; the values are stored."""

    KNOWN = "known"
    REFUSED = "refused"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True)
class ClientCheck:
    """One check. `reason` is a sentence that quotes Keap."""

    standing: ClientStanding
    reason: str
    checked_at: datetime


def check_client(actor: str) -> ClientCheck:
    """Exchange a code that Keap never issued: only a client that Keap knows gets the answer that the code is bad.

    An answer that shows nothing is not stored, so that the check before it still counts.
    """
    classified = exchange_code(services().keap, "only-asking-whether-the-client-is-known")
    standing = {
        Verdict.REFUSED_FOR_GOOD: ClientStanding.KNOWN,
        Verdict.GRANTED: ClientStanding.KNOWN,
        Verdict.CLIENT_MISCONFIGURED: ClientStanding.REFUSED,
    }.get(classified.verdict, ClientStanding.NO_ANSWER)
    check = ClientCheck(standing, classified.reason, utc_now())
    with write_transaction() as session:
        record(session, EventKind.CLIENT_CHECKED, None, actor, standing=standing, reason=classified.reason)
        if standing is not ClientStanding.NO_ANSWER:
            session.merge(CheckedClient(id=1, registration=_registration(), **asdict(check)))
    return check


def find_client_check() -> ClientCheck | None:
    """Return the stored check, unless client id, secret or token URL have changed since."""
    with read_session() as session:
        stored = session.get(CheckedClient, 1)
    if stored is None or not hmac.compare_digest(stored.registration, _registration()):
        return None
    return ClientCheck(ClientStanding(stored.standing), stored.reason, stored.checked_at)


def _registration() -> str:
    """Return a keyed hash of what is checked, which does not reveal the client secret."""
    keap = services().keap
    return keyed_hash("client check", keap.client_id, keap.client_secret, keap.token_url)
