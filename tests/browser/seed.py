"""Accounts in every state and flows with every ending, put straight into the database, for pages to be looked at."""

import hashlib
from datetime import datetime, timedelta
from itertools import count

from keap_connect.accounts.credentials import forget_credential, new_account, replace_credential
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.accounts.stored_state import AGAIN_LIMITS
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.matching import Grant
from keap_connect.counters import hour_of
from keap_connect.database import write_transaction
from keap_connect.events.history import Actor, EventKind
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AccountEvent, AuthorizationFlow, Period, ReconnectLink, Span, Worker
from keap_connect.refresh.figures import day_of
from keap_connect.services import services

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REFUSED = "Keap answered 400 (invalid_grant: Invalid refresh token)."
BUSY = "Keap answered 503 (an HTML page)."
numbers = count(1)


def add_account(
    company: str | None,
    tenant_id: str | None,
    person: str | None = "Jane Doe",
    state: AccountState = AccountState.ACTIVE,
    *,
    connected: timedelta = 120 * DAY,
    refreshed: timedelta = 5 * HOUR,
    **facts: object,
) -> int:
    """Store an account with a made-up pair of tokens and a short history; return its id.

    Args:
        connected: how long ago it was connected.
        refreshed: how long ago it was refreshed last.
        facts: further columns, such as `label`.
    """
    now, number = utc_now(), next(numbers)
    with write_transaction() as session:
        account = new_account(session, tenant_id, f"made-up-{number}" if person else None)
        expires_at = now - refreshed + DAY
        scope = f"full|{tenant_id}.infusionsoft.com" if tenant_id else "full"
        replace_credential(
            account, TokenResponse(f"access-token-{number:06}", f"refresh-{number:08}", expires_at, scope)
        )
        account.business_name, account.person_name = company, person
        account.person_email = f"{person.split()[0].lower()}@{tenant_id}.example.com" if person else None
        account.created_at = account.connected_at = now - connected
        account.refreshed_at = account.refresh_token_issued_at = now - refreshed
        _bring_into(state, account, now)
        for name, value in facts.items():
            setattr(account, name, value)
        session.add_all(_history(account, state, now))
        return account.id


def add_flow(
    browser: str, ref: str, ending: Ending | str | None, account_id: int | None = None, **facts: object
) -> None:
    """Store a flow of the browser with this cookie, ended this way; without an ending its exchange is under way."""
    now = utc_now()
    flow = AuthorizationFlow(
        ref=ref,
        state_hash=_hash(f"state of {ref}"),
        browser_hash=_hash(browser),
        started_at=now,
        expires_at=now + HOUR,
        consumed_at=now,
        ending=ending,
        ended_at=now if ending else None,
        account_id=account_id,
        pending_until=now + HOUR if ending in {Ending.DECISION_PENDING, Ending.IDENTITY_PENDING} else None,
    )
    for name, value in facts.items():
        setattr(flow, name, value)
    with write_transaction() as session:
        session.add(flow)


def add_link(account_id: int, token: str, made_by: str) -> int:
    """Store a reconnect link whose secret is known; return its id."""
    now = utc_now()
    link = ReconnectLink(
        account_id=account_id, token_hash=_hash(token), made_by=made_by, made_at=now, expires_at=now + 6 * DAY
    )
    with write_transaction() as session:
        session.add(link)
    return link.id


def add_worker(**facts: object) -> None:
    """Store what a worker said of itself; it is taken for alive for an hour."""
    now = utc_now()
    row = {"name": "worker-1", "started_at": now - 2 * DAY, "beat_at": now + HOUR, "refreshed": 412, "failed": 3}
    with write_transaction() as session:
        session.add(Worker(**row | facts))


def add_figures() -> None:
    """Store what happened in 100 hours and on 28 days, with a gap, large numbers, and every reason there is."""
    now = utc_now()
    hour, day = hour_of(now), day_of(now)
    reasons = [f"lost {reason}" for reason in (*Cause, "disconnected", "gone")]
    reasons += ["gained connected", "gained imported", "gained back"]
    with write_transaction() as session:
        for number in range(100):
            if 20 <= number < 24:
                continue
            figures = {"refreshes stored": 41_000.0 + 997 * (number % 9), "refreshes refused": float(number % 3)}
            figures |= {f"refresh_lead_seconds {limit}": 5000.0 for limit in ("28800.0", "86400.0", "864000.0")}
            figures |= {"refresh_lead_seconds 0.0": 1.0, "keap_latency_seconds 0.25": 9.0}
            figures |= {"keap_latency_seconds 0.5": 8.0 + number % 4, "keap_latency_seconds max": 0.5 + number % 7}
            session.add(Period(span=Span.HOUR, starts_at=hour - number * HOUR, figures=figures))
        for number in range(28):
            figures = {reason: float(place) for place, reason in enumerate(reasons) if (number + place) % 2}
            figures |= {"accounts active": 990_000.0 + 97 * number, "accounts disconnected": 9000.0}
            figures |= {"accounts at_risk": float(number % 5), "accounts reconnect_required": float(number)}
            figures |= {f"again {limit}": float(number % 3) for limit in AGAIN_LIMITS}
            session.add(Period(span=Span.DAY, starts_at=day - number * DAY, figures=figures))


def sealed_grant(ref: str, identity: Identity) -> bytes:
    """Return a grant sealed for the flow in which it is held."""
    granted = TokenResponse("access-token-held", "refresh-token-held", utc_now() + DAY, "full")
    return services().cipher.seal(Grant(granted, identity).to_json(), f"flow:{ref}:held_grant")


def _bring_into(state: AccountState, account: Account, now: datetime) -> None:
    if state is AccountState.AT_RISK:
        account.failures, account.failed_at, account.failure_reason = 3, now, BUSY
    elif state is AccountState.RECONNECT_REQUIRED:
        account.failures, account.failed_at, account.failure_reason = 1, now - HOUR, REFUSED
        account.refused_at = now - HOUR
    elif state is AccountState.DISCONNECTED:
        forget_credential(account)
        account.disconnected_at = now - 2 * DAY


def _history(account: Account, state: AccountState, now: datetime) -> list[AccountEvent]:
    person = {"person": account.person_name or "a person Keap has not named yet"}
    told = [(account.created_at, EventKind.CONNECTED, Actor.CUSTOMER, person)]
    if account.refreshed_at and account.refreshed_at > account.created_at:
        told.append((account.refreshed_at, EventKind.REFRESHED, Actor.SYSTEM, {}))
    if state is AccountState.AT_RISK:
        told.append((now, EventKind.REFRESH_FAILED, Actor.SYSTEM, {"reason": BUSY}))
    elif state is AccountState.RECONNECT_REQUIRED:
        told.append((now - HOUR, EventKind.REFRESH_REFUSED, Actor.SYSTEM, {"reason": REFUSED}))
    elif state is AccountState.DISCONNECTED:
        told.append((now - 2 * DAY, EventKind.DISCONNECTED, Actor.CUSTOMER, {}))
    return [
        AccountEvent(at=at, kind=kind, actor=actor, account_id=account.id, details=details)
        for at, kind, actor, details in told
    ]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
