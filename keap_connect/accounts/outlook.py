"""What runs out when: access tokens over the coming day, grants over the 45 days that Keap lets them live unused."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.state import REFRESH_TOKEN_LIFE, AccountState, state_expression
from keap_connect.clock import utc_now
from keap_connect.database import read_session
from keap_connect.models import Account

TOKEN_STEP, TOKEN_STEPS = timedelta(hours=2), 12
GRANT_STEP, GRANT_STEPS = timedelta(days=5), 9


@dataclass(frozen=True)
class RunningOut:
    """How many run out in each step of equal length from now on, and how many at a later time."""

    steps: tuple[int, ...]
    later: int

    @property
    def total(self) -> int:
        """How many run out within the steps."""
        return sum(self.steps)


@dataclass(frozen=True)
class Outlook:
    """What the coming time brings, of all accounts that are not lost or disconnected already."""

    access_tokens: RunningOut
    grants: RunningOut


def look_ahead() -> Outlook:
    """Count what runs out when."""
    now = utc_now()
    is_alive = state_expression(now).in_([state for state in AccountState if state.is_alive])
    tokens, grants = Account.access_token_expires_at, Account.refresh_token_issued_at
    token_edges = [now + TOKEN_STEP * number for number in range(TOKEN_STEPS + 1)]
    grant_edges = [now - REFRESH_TOKEN_LIFE + GRANT_STEP * number for number in range(GRANT_STEPS + 1)]
    with read_session() as session:
        return Outlook(
            access_tokens=_count(session, tokens.expression, token_edges, is_alive),
            grants=_count(session, grants.expression, grant_edges, is_alive),
        )


def _count(
    session: Session, moment: ColumnElement[Any], edges: list[datetime], is_alive: ColumnElement[bool]
) -> RunningOut:
    steps = [and_(moment > first, moment <= last) for first, last in pairwise(edges)]
    counts = [func.count().filter(condition) for condition in (*steps, moment > edges[-1])]
    *counted, later = session.execute(select(*counts).select_from(Account).where(is_alive)).one()
    return RunningOut(tuple(counted), later)
