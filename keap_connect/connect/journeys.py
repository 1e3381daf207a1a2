"""What admins see of the flows: who tried to connect, when, and how each ended."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from keap_connect.clock import utc_now
from keap_connect.connect.endings import FAILURES, STORED, Ending
from keap_connect.connect.flows import ending_of
from keap_connect.database import read_session
from keap_connect.models import NAMELESS, Account, AuthorizationFlow

MOST_LISTED = 100
LATELY = timedelta(hours=1)


@dataclass(frozen=True)
class Journey:
    """One flow. The account is the one that was connected, or the one to reconnect; a stranger's is unknown."""

    ref: str
    started_at: datetime
    outcome: str
    keap_said: str | None
    account_id: int | None
    account_title: str | None


@dataclass(frozen=True)
class Failures:
    """How many people could not connect in the last hour for one reason, and when the last of them tried."""

    ending: Ending
    people: int
    last_at: datetime

    @property
    def sentence(self) -> str:
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return f"{people} could not connect in the last hour: {FAILURES[self.ending]}."


def list_journeys() -> list[Journey]:
    """Return the newest flows, the last one first."""
    account_id = func.coalesce(AuthorizationFlow.account_id, AuthorizationFlow.reconnects_account_id)
    query = select(AuthorizationFlow, Account.id, Account.title).outerjoin(Account, Account.id == account_id)
    with read_session() as session:
        found = session.execute(query.order_by(AuthorizationFlow.id.desc()).limit(MOST_LISTED)).all()
    return [_journey(flow, account, title) for flow, account, title in found]


def list_failures() -> list[Failures]:
    """Return the failures of the last hour, the most frequent first; who has connected since does not count."""
    flow, since = AuthorizationFlow, utc_now() - LATELY
    connected = select(flow.browser_hash).where(flow.ending.in_(STORED), flow.ended_at > since)
    people = func.count(flow.browser_hash.distinct())
    failed = select(flow.ending, people, func.max(flow.ended_at)).where(
        flow.ending.in_(FAILURES), flow.ended_at > since, flow.browser_hash.not_in(connected)
    )
    with read_session() as session:
        found = session.execute(failed.group_by(flow.ending).order_by(people.desc(), flow.ending)).all()
    return [Failures(Ending(ending), count, last_at) for ending, count, last_at in found if ending and last_at]


def _journey(flow: AuthorizationFlow, account_id: int | None, title: str | None) -> Journey:
    return Journey(
        ref=flow.ref,
        started_at=flow.started_at,
        outcome=_outcome(flow),
        keap_said=flow.keap_said,
        account_id=account_id,
        account_title=(title or NAMELESS) if account_id else None,
    )


def _outcome(flow: AuthorizationFlow) -> str:
    if flow.consumed_at is None:
        return "did not come back from Keap" if flow.expires_at <= utc_now() else "under way"
    if flow.ending is not None and flow.ending not in set(Ending):
        return "ended as only another version of this app knows"
    ending = ending_of(flow)
    if ending is None:
        return "under way"
    return FAILURES.get(ending, "connected" if ending.is_success else "another Keap account waits for a decision")
