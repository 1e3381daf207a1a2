"""Stores what `accounts/state.py` derives from the facts of an account: state, cause, and when time changes it.

Each transaction that adds or changes accounts ends here: a change of the state is written with its event, and with
rows that change the number of accounts in each state. A plain UPDATE derives nothing: it brings `state_changes_at`
forward, and the worker derives the row when that moment has passed. The worker also derives all accounts at its start
and once a day, since an older version, or another program, may have changed only the facts.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from itertools import groupby

from sqlalchemy import case, delete, event, func, insert, inspect, select, text, union_all, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, defer

from keap_connect.accounts.state import (
    OVERDUE_AFTER,
    AccountState,
    Cause,
    Ours,
    Standing,
    reasons_of,
    refresh_token_ends_at,
    standing_of,
)
from keap_connect.accounts.words import NAMES, title_key_of, words_of
from keap_connect.clock import utc_now
from keap_connect.counters import bucket_of
from keap_connect.database import read_all, read_one, read_rows, read_session, take_turns, write_one, write_transaction
from keap_connect.events.history import Actor, EventKind, acting_from, record
from keap_connect.models import Account, AccountWord, CredentialKind, Registration, StateChange, StateCount
from keap_connect.services import services

log = logging.getLogger(__name__)
MOST_BEFORE_A_LIST = 100
ROWS_TO_ADD_UP = 100
LATE = timedelta(seconds=30)  # the worker looks every few seconds
# What has a date further ahead than this was written while a clock was wrong.
FAR_AHEAD = timedelta(hours=1)
# Limits of the buckets: seconds from "reconnect required" to the next grant.
AGAIN_LIMITS = (3600.0, 14_400.0, 86_400.0, 259_200.0, 604_800.0, 1_209_600.0, 2_592_000.0)
# A connection that recovers has an event of its own.
EVENT_OF_STATE = {
    AccountState.AT_RISK: EventKind.AT_RISK,
    AccountState.RECONNECT_REQUIRED: EventKind.RECONNECT_REQUIRED,
    AccountState.ACTIVE: EventKind.RECOVERED,
}
_TOUCHED = "accounts touched"
_WITHOUT_TOKENS = (defer(Account.access_token_sealed), defer(Account.refresh_token_sealed))
_REGISTRATION = select(Registration.client_id, Registration.token_url, Registration.working_since)


@dataclass
class _Touched:
    """The accounts that a transaction adds, changes and deletes; `renamed` are those whose words may be others."""

    accounts: set[Account] = field(default_factory=set)
    added: set[Account] = field(default_factory=set)
    renamed: set[Account] = field(default_factory=set)
    deleted: set[Account] = field(default_factory=set)


def registration(session: Session) -> Ours:
    """Return the client id and the token URL of this installation; those in the settings until a worker stored its own.

    All processes derive states by these, also while some run with other settings.
    """
    stored = session.connection().execute(_REGISTRATION).one_or_none()
    return Ours(*(stored or services().keap.registration))


def store_registration(*, is_first: bool = False) -> bool:
    """Make the client id and the token URL in the settings those of the installation; return whether they changed.

    Args:
        is_first: only if none are stored: then any process may do it.
    """
    ours = services().keap.registration
    with read_session() as session:
        stored = session.connection().execute(_REGISTRATION).one_or_none()
    if stored and (is_first or tuple(stored)[:2] == ours):
        return False
    with write_transaction() as session:
        take_turns(session, "registration")
        if session.get(Registration, 1) is None or not is_first:
            session.merge(Registration(id=1, client_id=ours[0], token_url=ours[1]))
    return True


def note_work() -> None:
    """Write that a worker works. After a pause of all workers, accounts count as due since now: each has its turn."""
    now = utc_now()
    worked_lately = Registration.worked_at.between(now - OVERDUE_AFTER, now + OVERDUE_AFTER)
    since = case((worked_lately, Registration.working_since), else_=now)
    write_one(update(Registration).values(working_since=since, worked_at=now))


@event.listens_for(Session, "before_flush")
def _note_flushed(session: Session, _context: object, _instances: object) -> None:
    _note_touched(session)


@event.listens_for(Session, "before_commit")
def _store_states(session: Session) -> None:
    touched = _note_touched(session)
    if not touched.accounts and not touched.deleted:
        return
    if not touched.accounts.isdisjoint(session.new):
        session.flush()  # the rows of their words refer to them
    before = Counter(_place(account) for account in touched.accounts | touched.deleted)
    touched.accounts -= touched.deleted
    ours, now = registration(session), utc_now()
    changed, changes = [], ["lost gone" for one in touched.deleted if _is_alive(one.state)]
    for account in sorted(touched.accounts, key=lambda one: one.id):
        standing = standing_of(account, now, ours)
        changed += [(account, account.state)] if account.state != standing.state else []
        changes += _gain_or_loss(account, standing, is_new=account in touched.added)
        _store(account, standing)
    session.add_all(StateChange(at=now, change=change) for change in changes)
    counts = Counter(_place(account) for account in touched.accounts)
    counts.subtract(before)
    for (state, cause), number in counts.items():
        if state and number:
            session.add(StateCount(state=state, cause=cause, accounts=number))
    for account in touched.renamed - touched.deleted:
        account.title_key = title_key_of(account)
        _store_words(session, account)
    for account, old_state in changed:
        # The first sentence: the event of the refresh beside it has Keap's words.
        why = next((f"{reason.partition('. ')[0].rstrip('.')}." for reason in reasons_of(account, now, ours)), "")
        _note_change(session, account, old_state, why)


def _note_touched(session: Session) -> _Touched:
    touched: _Touched = session.info.setdefault(_TOUCHED, _Touched())
    touched.added.update(one for one in session.new if isinstance(one, Account))
    touched.renamed.update(touched.added)
    touched.accounts.update(touched.renamed)
    for changed in session.dirty:
        if isinstance(changed, Account):
            touched.accounts.add(changed)
            if not NAMES.isdisjoint(inspect(changed).committed_state):
                touched.renamed.add(changed)
    touched.deleted.update(one for one in session.deleted if isinstance(one, Account))
    return touched


def _place(account: Account) -> tuple[str | None, str | None]:
    return account.state, account.state_cause


def _store(account: Account, standing: Standing) -> None:
    if account.state != standing.state:
        # What is known of a row that an older version wrote.
        known = (account.disconnected_at or account.refused_at) if account.state is None else None
        account.state, account.state_since = standing.state, known or utc_now()
    if account.state_cause != standing.cause:
        account.state_cause = standing.cause
    if account.state_changes_at != standing.changes_at:
        account.state_changes_at = standing.changes_at


def _is_alive(state: str | None) -> bool:
    return state is not None and AccountState(state).is_alive


def _gain_or_loss(account: Account, standing: Standing, *, is_new: bool) -> Iterator[str]:
    """Yield what `StateChange` says if an account begins to work, or no longer does."""
    if standing.state.is_alive == _is_alive(account.state):
        return
    if not standing.state.is_alive:
        yield f"lost {standing.cause or standing.state}"
    elif account.state == AccountState.RECONNECT_REQUIRED and account.state_since:
        yield f"again {bucket_of((utc_now() - account.state_since).total_seconds(), AGAIN_LIMITS)}"
    elif account.state is not None:
        yield "gained back"
    elif is_new:  # a row of an older version was gained before
        is_imported = account.needs_first_refresh or account.kind != CredentialKind.OAUTH
        yield "gained imported" if is_imported else "gained connected"


def _note_change(session: Session, account: Account, old_state: str | None, why: str) -> None:
    """Write the event of a new state. Connecting and disconnecting have events of their own."""
    kind = EVENT_OF_STATE.get(AccountState(account.state or ""))
    if kind is None or old_state in {None, AccountState.DISCONNECTED}:
        return
    details: dict[str, str | None] = {}
    if kind is not EventKind.RECOVERED:
        deadline = refresh_token_ends_at(account) if account.state_cause == Cause.UNUSED else None
        details = {"why": why, "cause": account.state_cause, "deadline": deadline.isoformat() if deadline else None}
    address = acting_from.set(None)  # it did not come from the browser whose request found it
    record(session, kind, account.id, Actor.SYSTEM, **details)
    acting_from.reset(address)


def _store_words(session: Session, account: Account) -> None:
    connection, of_account = session.connection(), AccountWord.account_id == account.id
    stored, words = set(connection.scalars(select(AccountWord.word).where(of_account))), words_of(account)
    if stored - words:
        connection.execute(delete(AccountWord).where(of_account, AccountWord.word.in_(stored - words)))
    if words - stored:
        rows = [{"word": word, "account_id": account.id} for word in sorted(words - stored)]
        connection.execute(insert(AccountWord), rows)


def settle_due(most: int) -> bool:
    """Derive the accounts whose state time may have changed, at most so many; return whether more are left."""
    due = select(Account.id).where(Account.state_changes_at <= utc_now()).order_by(Account.state_changes_at)
    ids = read_all(due.limit(most + 1))
    if ids:
        settle(ids[:most])
    return len(ids) > most


def settle_before_a_list() -> bool:
    """Do so for a page, which is shown even if that fails. Return whether the worker is behind."""
    with suppress(SQLAlchemyError):
        return settle_due(MOST_BEFORE_A_LIST)
    return True


def settle(ids: Collection[int], *, is_anew: bool = False) -> None:
    """Derive accounts and store what differs; `is_anew` also stores their words, and makes wrong dates right.

    Accounts that another transaction changes now are left to it.
    """
    rows = select(Account).options(*_WITHOUT_TOKENS).where(Account.id.in_(ids)).order_by(Account.id)
    with write_transaction() as session:
        accounts = session.scalars(rows.with_for_update(skip_locked=True)).all()
        touched = _note_touched(session)
        touched.accounts.update(accounts)
        if is_anew:
            touched.renamed.update(accounts)
            for account in accounts:
                if _is_future_dated(account):
                    _correct_dates(account)


def derive_anew(after: int, most: int) -> int | None:
    """Derive the next accounts after an id, and settle those that differ; return the last id, or None at the end."""
    rows = select(Account).options(*_WITHOUT_TOKENS).where(Account.id > after).order_by(Account.id).limit(most)
    with read_session() as session:
        ours, now = registration(session), utc_now()
        accounts = session.scalars(rows).all()
        if not accounts:
            return None
        between = AccountWord.account_id.between(accounts[0].id, accounts[-1].id)
        found = session.execute(
            select(AccountWord.account_id, AccountWord.word).where(between).order_by(AccountWord.account_id)
        )
        words = {account_id: {word for _, word in group} for account_id, group in groupby(found, lambda row: row[0])}
    differing = []
    for account in accounts:
        standing = standing_of(account, now, ours)
        stored = account.state, account.state_cause, account.state_changes_at
        has_names = words.get(account.id, set()) == words_of(account) and account.title_key == title_key_of(account)
        if astuple(standing) != stored or not has_names or _is_future_dated(account):
            differing.append(account.id)
    if differing:
        settle(differing, is_anew=True)
    return accounts[-1].id


def _is_future_dated(account: Account) -> bool:
    """Whether a pair, a failure or a claim was stored while a clock was ahead: by its dates it is due too late."""
    now, due_at = utc_now(), account.next_refresh_at
    is_due_later = due_at is not None and due_at > now
    of_past = [account.failed_at, account.claimed_until, account.refresh_token_issued_at if is_due_later else None]
    return any(moment is not None and moment > now + FAR_AHEAD for moment in of_past)


def _correct_dates(account: Account) -> None:
    """Make an account due now. The date of its pair stays: only Keap knows the true one."""
    now = utc_now()
    account.next_refresh_at = account.next_refresh_at and min(account.next_refresh_at, now)
    account.failed_at = account.failed_at and min(account.failed_at, now)
    account.claimed_until = None


def count_places(only: Collection[int] | None = None) -> dict[tuple[AccountState, Cause | None], int]:
    """Count the accounts by state and cause; with `only`, those of these ids."""
    if only is None:
        query = select(StateCount.state, StateCount.cause, func.sum(StateCount.accounts)).group_by(text("1, 2"))
    else:
        query = select(func.coalesce(Account.state, ""), Account.state_cause, func.count()).group_by(text("1, 2"))
        query = query.where(Account.id.in_(only), Account.state.is_not(None))
    found = read_rows(query)
    return {(AccountState(state), Cause(cause) if cause else None): int(many) for state, cause, many in found}


def count_states(only: Collection[int] | None = None) -> dict[str, int]:
    """Count the accounts in each state; with `only`, those of these ids."""
    counts = dict.fromkeys((state.value for state in AccountState), 0)
    for (state, _), number in count_places(only).items():
        counts[state] += number
    return counts


def is_behind() -> bool:
    """Whether the states of some accounts should have been derived a while ago."""
    late = select(Account.id).where(Account.state_changes_at <= utc_now() - LATE).limit(1)
    return read_one(late) is not None


def add_up_counts() -> None:
    """Replace the rows that count states by their sums, if they are many."""
    if (read_one(select(func.count()).select_from(StateCount)) or 0) <= ROWS_TO_ADD_UP:
        return
    sums: Counter[tuple[str, str | None]] = Counter()
    with write_transaction() as session:
        for state, cause, number in session.execute(
            delete(StateCount).returning(StateCount.state, StateCount.cause, StateCount.accounts)
        ):
            sums[state, cause] += number
        session.add_all(
            StateCount(state=state, cause=cause, accounts=number) for (state, cause), number in sums.items() if number
        )


def recount() -> None:
    """Count all accounts and write where the sums differ, in one statement, which sees one state of the database."""
    places = (Account.state, Account.state_cause)
    counted = union_all(
        select(*places, func.count().label("accounts")).where(Account.state.is_not(None)).group_by(*places),
        select(StateCount.state, StateCount.cause, -StateCount.accounts),
    ).subquery()
    state, cause, accounts = counted.c
    differing = select(state, cause, func.sum(accounts)).group_by(state, cause).having(func.sum(accounts) != 0)
    with write_transaction() as session:
        take_turns(session, "recount")  # or two workers would correct the same twice
        correction = insert(StateCount).from_select(["state", "cause", "accounts"], differing)
        wrong = session.scalars(correction.returning(StateCount.state)).all()
    if wrong:
        log.warning("The numbers of accounts in these states were wrong, and are corrected: %s.", ", ".join(wrong))
