"""An account's state, derived from the facts in its row; `accounts/stored_state.py` stores what this finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from keap_connect.models import Account, CredentialKind

REFRESH_TOKEN_LIFE = timedelta(days=45)
REFRESH_TOKEN_WARNING = timedelta(days=10)
FAILURES_AT_RISK = 3
OVERDUE_AFTER = timedelta(minutes=10)
ATTEMPT_SECONDS = timedelta(seconds=60)
_LATEST = datetime.max.replace(tzinfo=UTC) - REFRESH_TOKEN_LIFE


class AccountState(StrEnum):
    ACTIVE = "active"
    AT_RISK = "at_risk"
    RECONNECT_REQUIRED = "reconnect_required"
    DISCONNECTED = "disconnected"

    @property
    def is_alive(self) -> bool:
        """Whether the connection works, as far as is known."""
        return self in {AccountState.ACTIVE, AccountState.AT_RISK}


class Cause(StrEnum):
    """Why an account is at risk or must be reconnected; receivers of notifications rely on these values."""

    OTHER_REGISTRATION = "other_registration"
    REFRESHES_FAIL = "refreshes_fail"
    OUTCOME_UNKNOWN = "outcome_unknown"
    OVERDUE = "overdue"
    UNUSED = "unused"
    REFUSED = "refused"
    ANSWER_LOST = "answer_lost"
    AGED_OUT = "aged_out"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    KEY_REFUSED = "key_refused"


class Ours(NamedTuple):
    """Client id and token URL of this installation, and since when workers have worked without a long pause."""

    client_id: str
    token_url: str
    working_since: datetime | None = None


@dataclass(frozen=True)
class Standing:
    state: AccountState
    cause: Cause | None = None  # of an account that is at risk or must be reconnected
    changes_at: datetime | None = None  # the next moment at which time alone may change the state; None if never


# The kinds that never expire, and Keap's names for them.
KEYS = {
    CredentialKind.PERSONAL_ACCESS_TOKEN: "Personal Access Token",
    CredentialKind.SERVICE_ACCOUNT_KEY: "Service Account Key",
}
_NONE = AccountState.ACTIVE, None, ""  # of the grounds for another state
NEXT_STEPS = {
    AccountState.ACTIVE: "Nothing to do: the connection is kept alive automatically.",
    AccountState.AT_RISK: (
        "The connection still works. We retry automatically. If it is still at risk in an hour, send a reconnect link."
    ),
    AccountState.RECONNECT_REQUIRED: "A person must authorize again and allow access at Keap.",
    AccountState.DISCONNECTED: "No tokens are stored. To use this Keap account again, reconnect it.",
}
TOKEN_ONLY_STEPS = {
    AccountState.ACTIVE: (
        "It works until its token expires, and cannot be refreshed. Reconnect it for a connection that lasts."
    ),
    AccountState.RECONNECT_REQUIRED: "Reconnect it at Keap, or import another token.",
}
PAUSED_STEP = (
    "Refreshing is paused for all accounts, so this one is not refreshed. The page Accounts and ./keap-connect "
    "refreshing status say what ends the pause."
)
CLIENT_REFUSED_STEP = (
    "Keap refuses this app, so accounts are refreshed only one by one, minutes apart, until it accepts the app again. "
    "The page Accounts and ./keap-connect refreshing status say what to correct."
)
FOREIGN_STEP = "Put the old KEAP_CLIENT_ID and KEAP_TOKEN_URL back, or send this customer a reconnect link."
FOREIGN_IMPORT_STEP = (
    "Import the same pair again, which moves it to the KEAP_CLIENT_ID and KEAP_TOKEN_URL in the settings, or put the "
    "old ones back."
)
NOT_YET_REFRESHED = "Imported, not yet refreshed: its first refresh"
UNREADABLE_STEP = (
    "Its tokens do not open: they were changed, or TOKEN_KEYS lacks a key. "
    "To repair it, put the key that sealed them back, or reconnect the account."
)


def state_of(account: Account, now: datetime, ours: Ours) -> AccountState:
    return next(_grounds(account, now, ours), _NONE)[0]


def standing_of(account: Account, now: datetime, ours: Ours) -> Standing:
    state, cause, _ = next(_grounds(account, now, ours), _NONE)
    moments = _moments(account, ours) if state.is_alive else ()
    return Standing(state, cause, min((moment for moment in moments if moment > now), default=None))


def next_step_of(account: Account, state: AccountState, ours: Ours, pause_step: str | None = None) -> str:
    """Return a sentence that says what to do about an account that is in this state.

    Args:
        pause_step: the sentence while an alarm pauses refreshing.
    """
    if state is AccountState.AT_RISK and _is_foreign(account, ours):
        return FOREIGN_IMPORT_STEP if account.needs_first_refresh else FOREIGN_STEP
    if pause_step and state.is_alive and account.kind == CredentialKind.OAUTH:
        return pause_step
    if is_being_confirmed(account, state):
        return "Keap refused the last refresh. It is tried again in a minute; nothing to do until then."
    if account.is_pending and state is AccountState.ACTIVE and not account.needs_first_refresh:
        return "The connection works. Keap has not said yet whose account it is."
    if account.needs_first_refresh and state.is_alive:
        return _first_refresh_step(account)
    if never_worked(account) and account.disconnected_at is None:
        same_id = " with the same external id" if account.external_id else ""
        return f"Import another pair{same_id}, or reconnect the account at Keap."
    if account.kind == CredentialKind.ACCESS_TOKEN_ONLY:
        return TOKEN_ONLY_STEPS.get(state, NEXT_STEPS[state])
    if account.kind in KEYS and state is AccountState.ACTIVE:
        key = KEYS[CredentialKind(account.kind)]
        return f"Nothing to do: a {key} does not expire. To end it, delete it in Keap's API settings."
    if account.kind in KEYS and state is AccountState.RECONNECT_REQUIRED:
        return "Import another key, or reconnect the account at Keap."
    return NEXT_STEPS[state]


def _first_refresh_step(account: Account) -> str:
    if not account.failures:
        return f"{NOT_YET_REFRESHED} shows whether its refresh token works. It comes after all other refreshes."
    # Later, `reasons_of` has the answer.
    answer = f" {account.failure_reason}" if account.failures < FAILURES_AT_RISK else ""
    due_at = account.next_refresh_at
    when = f"after {due_at:%Y-%m-%d %H:%M:%S} UTC" if due_at else "soon"
    return f"{NOT_YET_REFRESHED} failed.{answer} It is tried again {when}."


def never_worked(account: Account) -> bool:
    """Whether it is an imported pair that Keap refused before it said whose it is: nothing of it is worth keeping."""
    return account.is_pending and account.needs_first_refresh and account.refused_at is not None


def is_being_confirmed(account: Account, state: AccountState) -> bool:
    """Whether Keap has refused one refresh, and the second try is still to come."""
    return bool(account.refusals) and state.is_alive


def reasons_of(account: Account, now: datetime, ours: Ours) -> list[str]:
    """Return sentences that say why an account is not active; none if it is."""
    return [sentence for _, _, sentence in _grounds(account, now, ours)]


def _grounds(account: Account, now: datetime, ours: Ours) -> Iterator[tuple[AccountState, Cause | None, str]]:
    """Yield all that keeps an account from being active: state, cause and a sentence. The first decides its state."""
    if account.disconnected_at is not None:
        yield AccountState.DISCONNECTED, None, "It was disconnected on request."
        return
    lost = AccountState.RECONNECT_REQUIRED
    if account.refused_at is not None:
        cause = Cause.ANSWER_LOST if account.outcome_unknown_since else Cause.REFUSED
        yield lost, cause, f"Keap refused the refresh token for good. {account.failure_reason or ''}".strip()
        if account.outcome_unknown_since is not None:
            when = f"{account.outcome_unknown_since:%Y-%m-%d %H:%M:%S} UTC"
            yield lost, cause, f"Our own last attempt with it was at {when}, and no usable answer came."
        return
    if account.kind != CredentialKind.OAUTH and _is_past(account.access_token_expires_at, now):
        if account.kind in KEYS:  # a report that Keap refuses a key sets its expiry
            key = KEYS[CredentialKind(account.kind)]
            yield lost, Cause.KEY_REFUSED, f"A job reported that Keap refuses the {key}."
        else:
            yield lost, Cause.TOKEN_EXPIRED, "The access token has expired, and there is no refresh token."
        return
    if _is_past(account.refresh_token_issued_at, now - REFRESH_TOKEN_LIFE):
        yield lost, Cause.AGED_OUT, "The grant aged out: Keap lets an unused refresh token live for 45 days."
    for risk, sentence in _risks(account, now, ours):
        yield AccountState.AT_RISK, risk, sentence


def _is_foreign(account: Account, ours: Ours) -> bool:
    return account.token_url != ours.token_url or (account.client_id != ours.client_id and account.kind not in KEYS)


def is_outcome_unknown(account: Account, now: datetime) -> bool:
    """Whether a refresh token was sent and no usable answer came in time."""
    return account.outcome_unknown_since is not None or _is_past(account.attempted_at, now - ATTEMPT_SECONDS)


def refresh_token_ends_at(account: Account) -> datetime | None:
    """Return when Keap ends an unused refresh token; None if there is none, or if its age is unknown."""
    issued_at = account.refresh_token_issued_at
    return _after(issued_at, REFRESH_TOKEN_LIFE) if issued_at else None


def _is_overdue(account: Account, now: datetime, ours: Ours) -> bool:
    """Whether the access token has expired although a refresh was due long ago, not counting back-offs."""
    if not _is_past(account.access_token_expires_at, now):
        return False
    if account.needs_first_refresh and not account.failures:
        return False  # imported pairs wait for each other
    due_at = _due_at(account, ours)
    return due_at is None or _is_past(due_at, now - OVERDUE_AFTER)


def _due_at(account: Account, ours: Ours) -> datetime | None:
    """Return since when a refresh is due. The time in which no worker ran does not count."""
    due_at = account.failed_at if account.failures else account.next_refresh_at
    if due_at is None or ours.working_since is None:
        return due_at
    # What became overdue while no worker ran stays so until it is refreshed.
    return due_at if account.state_cause == Cause.OVERDUE else max(due_at, ours.working_since)


def _moments(account: Account, ours: Ours) -> Iterator[datetime]:
    """Yield the moments at which the conditions of an account that lives may change."""
    if account.attempted_at is not None:
        yield _after(account.attempted_at, ATTEMPT_SECONDS)
    if (ends_at := refresh_token_ends_at(account)) is not None:
        yield ends_at - REFRESH_TOKEN_WARNING
        yield ends_at
    expires_at, due_at = account.access_token_expires_at, _due_at(account, ours)
    if expires_at is not None:
        is_refreshed = account.kind == CredentialKind.OAUTH
        yield max(expires_at, _after(due_at, OVERDUE_AFTER)) if due_at and is_refreshed else expires_at


def _risks(account: Account, now: datetime, ours: Ours) -> Iterator[tuple[Cause, str]]:
    if _is_foreign(account, ours):
        yield (
            Cause.OTHER_REGISTRATION,
            "It was connected with another client id or token URL than the settings name now, so it is not refreshed.",
        )
    if account.failures >= FAILURES_AT_RISK:
        sentence = f"The last {account.failures} refreshes failed. {account.failure_reason or ''}".strip()
        yield Cause.REFRESHES_FAIL, sentence
    if is_outcome_unknown(account, now):
        # A reason without a failure or a refusal since the last stored pair comes from a refusal that came late.
        is_late = account.failure_reason and not (account.failures or account.refusals)
        lost = "A refresh was sent and no usable answer came. Keap may have replaced the token; it is tried again."
        yield Cause.OUTCOME_UNKNOWN, f"{account.failure_reason} A refresh is tried at once." if is_late else lost
    if _is_overdue(account, now, ours):
        yield Cause.OVERDUE, "The access token has expired and was not refreshed yet."
    if _is_past(account.refresh_token_issued_at, now - REFRESH_TOKEN_LIFE + REFRESH_TOKEN_WARNING):
        yield Cause.UNUSED, "Fewer than 10 of the 45 days of an unused refresh token are left."


def _after(moment: datetime, span: timedelta) -> datetime:
    """Add a span, also to a wrong date at the end of the calendar: one such row must not stop the others."""
    return min(moment, _LATEST) + span


def _is_past(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now
