"""What admins see of the flows: who tried to connect, when, and how each ended."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from keap_connect.clock import utc_now
from keap_connect.connect.endings import FAILURES, SUCCESSES, Ending
from keap_connect.connect.flows import ending_of
from keap_connect.database import read_session
from keap_connect.events.history import EventKind
from keap_connect.models import Account, AccountEvent, AuthorizationFlow

MOST_LISTED = 100
LATELY = timedelta(hours=1)


@dataclass(frozen=True)
class Journey:
    """One flow. The account is the one that was connected, or the one to reconnect; a stranger's is unknown."""

    flow: AuthorizationFlow
    account: Account | None
    outcome: str
    who: str | None  # the person of the account, else the address that a failure came from; None if unknown


@dataclass(frozen=True)
class Failures:
    """How many people could not connect in the last hour for one reason, and when the last of them tried."""

    ending: Ending
    people: int
    last_at: datetime

    @property
    def sentence(self) -> str:
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return f"{people} could not connect in the last hour: {self.ending.outcome}."


def list_journeys(reference: str = "") -> list[Journey]:
    """Return the newest flows, the last one first; or the one with this reference, which its person saw."""
    account_id = func.coalesce(AuthorizationFlow.account_id, AuthorizationFlow.reconnects_account_id)
    query = select(AuthorizationFlow, Account).outerjoin(Account, Account.id == account_id)
    if reference:
        query = query.where(AuthorizationFlow.ref == reference)
    with read_session() as session:
        found = session.execute(query.order_by(AuthorizationFlow.id.desc()).limit(MOST_LISTED)).all()
        oldest = min((flow.started_at for flow, _ in found), default=utc_now())
        failed = AccountEvent.kind == EventKind.CONNECTION_FAILED, AccountEvent.at >= oldest
        events = session.scalars(select(AccountEvent.details).where(*failed)).all()
    addresses = {details.get("reference"): details.get("address") for details in events}
    journeys = []
    for flow, account in found:
        who = account and (account.person_email or account.person_name)
        journeys.append(Journey(flow, account, _outcome(flow), who or addresses.get(flow.ref)))
    return journeys


def list_failures() -> list[Failures]:
    """Return the failures of the last hour, the most frequent first.

    A person counts once, by the newest failure; who has connected since does not count.
    """
    flow, since = AuthorizationFlow, utc_now() - LATELY
    connected = select(flow.browser_hash).where(flow.ending.in_(SUCCESSES), flow.ended_at > since)
    failed = flow.ending.in_(FAILURES), flow.ended_at > since, flow.browser_hash.not_in(connected)
    newest = select(func.max(flow.id)).where(*failed).group_by(flow.browser_hash)
    people = func.count()
    counted = select(flow.ending, people, func.max(flow.ended_at)).where(flow.id.in_(newest)).group_by(flow.ending)
    with read_session() as session:
        found = session.execute(counted.order_by(people.desc(), flow.ending)).all()
    return [Failures(Ending(ending), count, last_at) for ending, count, last_at in found if ending and last_at]


def _outcome(flow: AuthorizationFlow) -> str:
    if flow.consumed_at is None:
        return "did not come back from Keap" if flow.expires_at <= utc_now() else "under way"
    if flow.ending is not None and flow.ending not in set(Ending):
        return "ended as only another version of this app knows"
    ending = ending_of(flow)
    return "under way" if ending is None else ending.outcome or "connected"
