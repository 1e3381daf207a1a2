"""Who may present an account's refresh token now.

A lease is one conditional UPDATE, committed durably before anything is sent; it also sets the attempt marker. Its
times are written and compared on the database's clock. It is fixed, longer than any call, and never renewed.

The owner of a lease stays in the row until the outcome is written: by the owner, or by the process that finds its
recovery file, whose name begins the owner's name. An owner whose lease has ended may be stopped, suspended or cut off,
and come back with the new pair.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from flask import current_app
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    String,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from keap_connect.accounts.credentials import fingerprint, is_ours, open_refresh_token
from keap_connect.accounts.state import ATTEMPT_SECONDS
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import (
    count_updated,
    database_clock,
    note_server,
    read_session,
    seconds_since_trouble,
    server_start,
    write_transaction,
)
from keap_connect.errors import AccountNotFound, TemporarilyUnavailable
from keap_connect.models import CLIENT_REFUSED, LARGEST_ID, Account, Alarm
from keap_connect.plain_reads import plain_reads
from keap_connect.refresh import timing
from keap_connect.refresh.alarms import CONFIRM, MASS_REFUSAL

log = logging.getLogger(__name__)
# While one of these alarms lasts, nobody presents anything.
PAUSES_ALL = Alarm.name != literal_column(f"'{CLIENT_REFUSED}'")  # no parameter: `PlainReads` would have to know it
IS_NOT_PAUSED = ~select(Alarm.name).where(PAUSES_ALL).exists()
LENGTH_OF_FILE_NAME = 16
# What the owner of a lease ends with whose recovery file has the new pair, and is not stored yet: the process that
# finds it cannot open it, or the operator was asked whether this is the living database.
CLOSED, AHEAD = ":closed", ":ahead"
# The same words as the index has; with others, a database reads the whole table.
HAS_WAIT = or_(Account.lease_owner.is_not(None), Account.blocked_until.is_not(None))


@dataclass(frozen=True)
class Lease:
    """The right to present one refresh token once."""

    account: Account
    refresh_token: str = field(repr=False)
    must_end_by: float  # on our boot clock, counted from before the lease was acquired
    unknown_wait_seconds: float  # how long after an attempt with an unknown outcome this one may be made
    owner: str = ""  # the name of the recovery file, and a random part, since a file serves one attempt after the other


@dataclass(frozen=True)
class Situation:
    """An account, and what keeps its refresh token from being presented now."""

    account: Account
    is_leased: bool
    blocked_seconds: float
    unknown_seconds: float | None  # since an attempt whose lease has ended and whose outcome nobody wrote down
    client_refusal: str | None  # what Keap said when it refused our client, while that alarm lasts
    pause_reason: str | None  # why nobody presents anything, while that lasts; a caller may read it


def look(account_id: int) -> Situation:
    """Read an account and its lease by the database's clock. Raises AccountNotFound."""
    asked_at = seconds_since_boot()
    with read_session() as session:
        found = session.execute(_SITUATION, {"sought": account_id}).one_or_none() if account_id <= LARGEST_ID else None
    if found is None:
        raise AccountNotFound(f"There is no account {account_id}.")
    account, now, start, client_refusal, pause_reason = found
    note_server(start)
    if _has_jumped(now, asked_at) or (account.lease_ends or 0) > now + timing.LONGEST_LEASE_AHEAD:
        restart_waits()
        return look(account_id)
    is_leased = _ahead(account.lease_ends, now) > 0
    pending_until = account.blocked_until if account.lease_ends is None else None
    blocked_seconds = max(_ahead(pending_until, now), _wait_after_trouble(account))
    is_unknown = account.lease_ends is not None and not is_leased
    unknown_seconds = now - account.lease_ends + timing.LEASE_SECONDS if is_unknown else None
    return Situation(account, is_leased, blocked_seconds, unknown_seconds, client_refusal, pause_reason)


def notice_clock_step() -> None:
    """Compare the database's clock with ours; restart the waits if it jumped or if the machine rebooted."""
    is_first = _clock().ahead_seconds is None
    asked_at = seconds_since_boot()
    with read_session() as session:
        now, start = session.execute(select(database_clock(), server_start())).one()
        is_ahead = or_(
            Account.lease_ends > now + timing.LONGEST_LEASE_AHEAD,
            Account.blocked_until > now + timing.LONGEST_BLOCK_AHEAD,
        )
        has_step = is_first and session.scalar(select(Account.id).where(HAS_WAIT, is_ahead).limit(1)) is not None
    note_server(start)
    if has_step or _has_jumped(now, asked_at):
        restart_waits()


def restart_waits() -> None:
    """Start all waits again, since the database's clock no longer says when they began.

    All leases end, and nothing more is presented under them; a hold begins anew. An answer that is on its way is stored
    if its account has the same generation. With SQLite only a reboot moves the clock, and no process outlives it.
    """
    with write_transaction() as session:
        outlives = session.get_bind().dialect.name == "postgresql"
        unknown_wait = timing.LOCKED_WAIT_SECONDS if outlives else timing.UNKNOWN_OUTCOME_WAIT_SECONDS
        is_held = or_(Account.lease_owner.endswith(CLOSED), Account.lease_owner.endswith(AHEAD))
        wait = case(
            (is_held, null()),
            (Account.lease_owner.is_not(None), unknown_wait),
            else_=timing.UNKNOWN_OUTCOME_WAIT_SECONDS,
        )
        restarted = count_updated(
            session,
            update(Account)
            .where(HAS_WAIT)
            .values(
                lease_owner=case((is_held, Account.lease_owner)),
                lease_ends=case((is_held, database_clock())),
                blocked_until=database_clock() + wait,
            )
            .execution_options(synchronize_session=False),
        )
        now = session.scalar(select(database_clock())) or 0.0
        ahead_seconds = now - seconds_since_boot()  # before the commit, which may take long
    _clock().note(ahead_seconds)
    log.warning("The database's clock jumped, or it is another one than before; %s waits begin anew.", restarted)


@dataclass
class _Clock:
    """How far the database's clock was ahead of our boot clock when this process last compared them."""

    ahead_seconds: float | None = None
    known_since: float | None = None  # on our boot clock

    def note(self, ahead_seconds: float) -> None:
        self.ahead_seconds = ahead_seconds
        self.known_since = self.known_since or seconds_since_boot()


def _clock() -> _Clock:
    found: _Clock = current_app.extensions.setdefault("keap_connect.clock", _Clock())
    return found


def _has_jumped(now: float, asked_at: float) -> bool:
    """Whether the database's clock jumped against ours; it read `now` between `asked_at` and this moment."""
    least, most = now - seconds_since_boot(), now - asked_at
    known = _clock().ahead_seconds
    if known is not None and (least > known + timing.JUMP_SECONDS or most < known - timing.JUMP_SECONDS):
        return True
    if most - least < timing.JUMP_SECONDS:
        _clock().note(least)
    return False


def build_lease(account: Account, unknown_wait_seconds: float | None = None) -> Lease | None:
    """Return a lease to acquire for an account as it was read; None if it has no refresh token that is ours.

    Args:
        unknown_wait_seconds: as in `Lease`; the default is for a token that nobody needs now.

    Raises:
        SealBroken: the stored refresh token does not open.
    """
    refresh_token = open_refresh_token(account)
    if refresh_token is None or not is_ours(account):
        return None
    wait = unknown_wait_seconds or timing.UNASKED_WAIT_SECONDS
    return Lease(account, refresh_token, seconds_since_boot() + timing.LEASE_SECONDS, wait)


def acquire_leases(leases: Sequence[Lease]) -> list[Lease]:
    """Acquire in one transaction the leases that are free, and return them.

    Raises:
        SQLAlchemyError: the database failed; if it failed at the commit, they may be acquired all the same.
    """
    with write_transaction() as session:
        connection = session.connection()  # SQLite waits here for other writers, so the clock is read afterwards
        if connection.dialect.name == "postgresql":
            note_server(connection.scalar(_SERVER) or 0.0)  # that of these leases, for the check after them
        ahead, now = _clock().ahead_seconds, utc_now()
        terms = {
            "lease_seconds": timing.LEASE_SECONDS,
            "block_seconds": timing.UNKNOWN_OUTCOME_WAIT_SECONDS,
            "had_no_trouble": _seconds_without_trouble() >= timing.UNKNOWN_OUTCOME_WAIT_SECONDS,
            "now": now,
            "unknown_at": now + ATTEMPT_SECONDS,
            "clock_expected": None if ahead is None else seconds_since_boot() + ahead,
        }
        acquired = connection.execute(
            _ACQUIRING,
            [
                {
                    **terms,
                    **_named(lease),
                    "token": fingerprint(lease.refresh_token),
                    "owner_seen": lease.account.lease_owner,
                    "seconds_after_lease": lease.unknown_wait_seconds - timing.LEASE_SECONDS,
                }
                for lease in sorted(leases, key=lambda lease: lease.account.id)  # as everybody who locks several rows
            ],
        )
        if acquired.rowcount == len(leases):
            return list(leases)
        owners = set(connection.scalars(_OWNERS, {"sought": [lease.account.id for lease in leases]}))
    return [lease for lease in leases if lease.owner in owners]


def _named(lease: Lease) -> dict[str, object]:
    return {"sought": lease.account.id, "seen": lease.account.generation, "owner": lease.owner}


def is_still_held(lease: Lease) -> bool:
    """Whether the account still has this pair and this lease, the lease has not ended, and nothing pauses refreshing.

    The database decides by its own clock, so a pause that our boot clock does not count (a suspended virtual machine)
    and a jump of the database's clock are noticed. Without an answer of the database nothing is sent.
    """
    try:
        return plain_reads(_STILL_HELD).one(**_named(lease)) is not None
    except TemporarilyUnavailable:
        log.warning("Nothing is sent for account %s: the database fails.", lease.account.id)
        return False


def release(session: Session, account: Account, *, clear_marker: bool, block_seconds: float) -> None:
    """End a lease in the transaction that writes how its attempt ended."""
    account.lease_owner = account.lease_ends = None
    if clear_marker:
        account.attempt_fingerprint = account.attempted_at = None
    now = session.scalar(select(database_clock())) or 0.0
    account.blocked_until = now + block_seconds if block_seconds > 0 else None


def note_dead(session: Session, recovery_files: Sequence[str]) -> None:
    """Write on attempts that their process is dead.

    Args:
        recovery_files: the names that the owners of their leases begin with.
    """
    dead = (
        update(Account)
        .where(HAS_WAIT, func.substr(Account.lease_owner, 1, LENGTH_OF_FILE_NAME).in_(recovery_files))
        .values(
            lease_owner=None,
            lease_ends=None,
            blocked_until=database_clock() + timing.UNKNOWN_OUTCOME_WAIT_SECONDS,
            outcome_unknown_since=func.coalesce(Account.outcome_unknown_since, Account.attempted_at),
            state_changes_at=utc_now(),
        )
        .execution_options(synchronize_session=False)
    )
    session.execute(dead)


def hold(session: Session, account: Account, owner: str) -> None:
    """Let nobody present the token of a locked row for a day: it was used to get the pair in the owner's file."""
    now = session.scalar(select(database_clock())) or 0.0
    if account.lease_owner != owner or abs(now - (account.lease_ends or 0.0)) > timing.HOLD_SECONDS:
        account.lease_owner, account.lease_ends, account.blocked_until = owner, now, None
        account.outcome_unknown_since = account.outcome_unknown_since or account.attempted_at or utc_now()


def is_free(seconds_after_lease: float | ColumnElement[float] | None = None) -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions: there is a refresh token, not refused, neither leased nor blocked.

    Args:
        seconds_after_lease: how long ago the lease of an attempt with an unknown outcome must have ended; the default
            is for a token that nobody needs now.
    """
    if seconds_after_lease is None:
        seconds_after_lease = timing.UNASKED_WAIT_SECONDS - timing.LEASE_SECONDS
    return (
        Account.disconnected_at.is_(None),
        Account.refresh_token_sealed.is_not(None),
        Account.refused_at.is_(None),
        or_(
            and_(Account.lease_ends.is_(None), _is_past(Account.blocked_until)),
            and_(Account.lease_ends.is_not(None), _is_past(Account.lease_ends, seconds_after_lease)),
        ),
    )


def _wait_after_trouble(account: Account) -> float:
    """Return how long a token with an unknown outcome must wait because the database failed for this process lately.

    The holder of the new pair could not store it then, so the whole wait begins when the database is back. A process
    counts its own start as a failure, since it cannot know about the time before.
    """
    if account.attempt_fingerprint is None or account.lease_owner is None:
        return 0.0
    return max(timing.UNKNOWN_OUTCOME_WAIT_SECONDS - _seconds_without_trouble(), 0.0)


def _seconds_without_trouble() -> float:
    """Return for how long the database has not failed for this process, and no jump of its clock was overlooked."""
    known_since = _clock().known_since
    return 0.0 if known_since is None else min(seconds_since_trouble(), seconds_since_boot() - known_since)


def _is_past(
    moment: InstrumentedAttribute[float | None], for_seconds: float | ColumnElement[float] = 0.0
) -> ColumnElement[bool]:
    now = database_clock()
    return or_(moment.is_(None), moment <= now - for_seconds)


# The statements of each refresh, built once, since building takes longer than running them.
_PAUSE_REASON = case(  # how many others were refused is not for every caller to know
    (Alarm.name == MASS_REFUSAL, "Keap refused many accounts at once; an admin must look."),
    else_=Alarm.reason + f" {CONFIRM}",
)
_SITUATION = select(
    Account,
    database_clock(),
    server_start(),
    select(Alarm.reason).where(Alarm.name == CLIENT_REFUSED).scalar_subquery(),
    select(_PAUSE_REASON).where(PAUSES_ALL).order_by(Alarm.raised_at).limit(1).scalar_subquery(),
).where(Account.id == bindparam("sought"))
_THIS_PAIR = (Account.id == bindparam("sought"), Account.generation == bindparam("seen"))
_ACQUIRING = (
    update(Account)
    .where(
        *_THIS_PAIR,
        IS_NOT_PAUSED,
        *is_free(bindparam("seconds_after_lease", type_=Float)),
        # The wait was chosen for the attempt that was seen; another one may have begun since.
        or_(Account.lease_owner.is_(None), Account.lease_owner == bindparam("owner_seen", type_=String)),
        # After a jump of the clock a lease may look as if it had ended.
        func.coalesce(
            func.abs(database_clock() - bindparam("clock_expected", type_=Float)) <= timing.JUMP_SECONDS, true()
        ),
        # While the database was away, the holder of the new pair could not store it.
        or_(
            Account.attempt_fingerprint.is_(None),
            Account.lease_owner.is_(None),
            bindparam("had_no_trouble", type_=Boolean),
        ),
    )
    .values(
        lease_owner=bindparam("owner"),
        lease_ends=database_clock() + bindparam("lease_seconds", type_=Float),
        blocked_until=database_clock() + bindparam("block_seconds", type_=Float),
        # A marker that is still there is from an attempt that nobody finished.
        outcome_unknown_since=case(
            (Account.outcome_unknown_since.is_(None), Account.attempted_at), else_=Account.outcome_unknown_since
        ),
        attempt_fingerprint=bindparam("token"),
        attempted_at=bindparam("now"),
        # Then the outcome of this attempt is unknown, if nobody has written it; that of an earlier one is so at once.
        state_changes_at=case(
            (and_(Account.outcome_unknown_since.is_(None), Account.attempted_at.is_not(None)), bindparam("now")),
            (Account.state_changes_at < bindparam("unknown_at"), Account.state_changes_at),
            else_=bindparam("unknown_at"),
        ),
    )
)
_SERVER = select(server_start())
_OWNERS = select(Account.lease_owner).where(Account.id.in_(bindparam("sought", expanding=True)))
_STILL_HELD = select(Account.id).where(
    *_THIS_PAIR, Account.lease_owner == bindparam("owner"), Account.lease_ends > database_clock(), IS_NOT_PAUSED
)


def _ahead(moment: float | None, now: float) -> float:
    return max((moment or now) - now, 0.0)
