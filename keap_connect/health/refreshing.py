"""Whether accounts are refreshed in time: what pauses refreshing, which workers run, how late they are.

Doctor, /accounts, /setup, /readyz and /metrics all read it here, so they cannot contradict each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import count_states, is_behind
from keap_connect.database import read_all
from keap_connect.deployment import check_keys, foreign_warning
from keap_connect.errors import SettingsError
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.models import CLIENT_REFUSED, Account, Worker
from keap_connect.refresh.alarms import ADVICE, MASS_REFUSAL, list_alarms, list_refused
from keap_connect.refresh.due import lag_seconds
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.refresh.storing import UNREADABLE

LONGEST_LAG_SECONDS = 600
MOST_NAMED = 20


@dataclass(frozen=True)
class Pause:
    """An alarm that pauses refreshing until a person decides. Without `account_ids` it concerns all accounts."""

    name: str
    since: datetime
    reason: str
    account_ids: list[int] | None
    advice: str

    @property
    def accounts(self) -> str:
        if not self.account_ids:
            return "all"
        more = len(self.account_ids) - MOST_NAMED
        return ", ".join(map(str, self.account_ids[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")

    @property
    def sentence(self) -> str:
        since = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"Refreshing has been paused since {since}. {self.reason} Accounts concerned: {self.accounts}."


@dataclass(frozen=True)
class Refreshing:
    pauses: list[Pause]
    workers: list[Worker]  # that gave a sign of life within the last minute
    lag_seconds: float  # how long the account that waits longest has been due
    foreign_warning: str  # that grants of another registration are stored, or ""
    is_behind: bool  # whether the stored states of some accounts are out of date

    @property
    def is_ready(self) -> bool:
        """False if a person has to act now: refreshing is paused or wrongly set, or no worker does work that waits."""
        is_worked = bool(self.workers) or self.lag_seconds < LONGEST_LAG_SECONDS
        return is_worked and not self.pauses and not self.foreign_warning

    @property
    def client_refusal(self) -> str | None:
        return next((pause.reason for pause in self.pauses if pause.name == CLIENT_REFUSED), None)

    @property
    def worker_sentence(self) -> str:
        if not self.workers:
            return "No worker is running, so accounts are refreshed only when a job asks."
        running = f"{len(self.workers)} {'worker is' if len(self.workers) == 1 else 'workers are'} running"
        if self.pauses:
            return f"{running}; refreshing is paused."
        minutes = int(self.lag_seconds / 60)
        return f"{running}, {minutes} min behind." if minutes else f"{running}, up to date."

    def findings(self, counts: Mapping[str, int]) -> Iterator[Finding]:
        """Judge it; `counts` is the number of accounts in each state."""
        for pause in self.pauses:
            yield wrong("alarms", pause.sentence, pause.advice)
        if not self.pauses:
            yield well("alarms", "Nothing pauses refreshing.")
        for worker in self.workers:
            if worker.paused_until:
                yield attention("worker", f"{worker.name} pauses: {worker.pause_reason}", "It continues automatically.")
        if not self.workers:
            is_missed = counts[AccountState.ACTIVE] + counts[AccountState.AT_RISK] > 0
            yield (wrong if is_missed else attention)(
                "worker", self.worker_sentence, "Start one: ./keap-connect worker"
            )
        elif self.lag_seconds > LONGEST_LAG_SECONDS and not self.pauses:
            advice = "Look at the worker's log; raise REFRESH_RATE_PER_MINUTE if it is at its limit."
            yield attention("worker", self.worker_sentence, advice)
        else:
            yield well("worker", self.worker_sentence)
        if self.is_behind and self.workers:
            yield attention(
                "states", "The states of some accounts are out of date.", "The worker derives them; wait a minute."
            )
        lost, risky = counts[AccountState.RECONNECT_REQUIRED], counts[AccountState.AT_RISK]
        if lost:
            sentence = f"{lost} {'account waits' if lost == 1 else 'accounts wait'} for a person to authorize again."
            yield attention("accounts", sentence, "./keap-connect accounts list --state reconnect_required")
        if risky:
            sentence = f"{risky} {'account is' if risky == 1 else 'accounts are'} at risk."
            yield attention("accounts", sentence, "./keap-connect accounts list --state at_risk")
        if not lost and not risky:
            yield well("accounts", f"{sum(counts.values())} stored, none needs attention.")


def read_refreshing() -> Refreshing:
    """Read it, with statements whose cost does not grow with the number of accounts."""
    pauses = []
    for alarm in list_alarms():
        account_ids = list_refused(alarm) if alarm.name == MASS_REFUSAL else None
        pauses.append(Pause(alarm.name, alarm.raised_at, alarm.reason, account_ids, ADVICE[alarm.name]))
    return Refreshing(pauses, list_workers(), lag_seconds(), foreign_warning(), is_behind())


def check_refreshing() -> Iterator[Finding]:
    return read_refreshing().findings(count_states())


def check_unreadable() -> Iterator[Finding]:
    """Find the accounts whose refresh token the worker could not open; to open all tokens would take too long."""
    noted = Account.failures > 0, Account.failure_reason.startswith(UNREADABLE)
    ids = read_all(select(Account.id).where(*noted).order_by(Account.id).limit(MOST_NAMED))
    if ids:
        sentence = f"The refresh token does not open of these accounts: {', '.join(map(str, ids))}."
        advice = "Put the key that sealed it back into TOKEN_KEYS and restart all processes, or reconnect them."
        yield wrong("tokens", sentence, advice)


def is_ready() -> bool:
    """Whether the database answers, TOKEN_KEYS opens what it stores, and due accounts are refreshed."""
    try:
        check_keys()
        return read_refreshing().is_ready
    except (SQLAlchemyError, SettingsError):
        return False
