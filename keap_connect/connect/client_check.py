"""Whether Keap's token endpoint knows our client: checked with an impossible code, so that no code is used up."""

import hmac
from enum import StrEnum

from sqlalchemy import select

from keap_connect.clock import utc_now
from keap_connect.database import read_one, write_transaction
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


# What the history says before Keap's own answer, which is an error in each case.
SAID = {ClientStanding.KNOWN: "Keap knows them. ", ClientStanding.REFUSED: "Keap refuses them. "}


def check_client(actor: str) -> CheckedClient:
    """Exchange a code that Keap never issued: only a client that Keap knows gets the answer that the code is bad.

    An answer that shows nothing is not stored, so that the check before it still counts.
    """
    classified = exchange_code(services().keap, "only-asking-whether-the-client-is-known")
    standing = {
        Verdict.REFUSED_FOR_GOOD: ClientStanding.KNOWN,
        Verdict.GRANTED: ClientStanding.KNOWN,
        Verdict.CLIENT_MISCONFIGURED: ClientStanding.REFUSED,
    }.get(classified.verdict, ClientStanding.NO_ANSWER)
    facts = {"standing": standing, "reason": classified.reason, "checked_at": utc_now()}
    check = CheckedClient(id=1, registration=_registration(), **facts)
    with write_transaction() as session:
        reason = f"{SAID.get(standing, '')}{classified.reason}"
        record(session, EventKind.CLIENT_CHECKED, None, actor, standing=standing, reason=reason)
        if standing is not ClientStanding.NO_ANSWER:
            session.merge(check)
    return check


def find_client_check() -> CheckedClient | None:
    """Return the stored check, unless client id, secret or token URL have changed since."""
    stored = read_one(select(CheckedClient))
    return stored if stored and hmac.compare_digest(stored.registration, _registration()) else None


def _registration() -> str:
    """Return a keyed hash of what is checked, which does not reveal the client secret."""
    keap = services().keap
    return keyed_hash("client check", keap.client_id, keap.client_secret, keap.token_url)
