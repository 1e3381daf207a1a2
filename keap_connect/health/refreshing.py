"""Whether accounts are refreshed in time: what pauses refreshing, which workers run, how late they are.

Doctor, dashboard, /setup, /readyz and /metrics all read it here, so they cannot contradict each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.directory import count_states
from keap_connect.accounts.state import AccountState
from keap_connect.deployment import check_keys
from keap_connect.errors import SettingsError
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.models import Alarm, Worker
from keap_connect.refresh.alarms import ADVICE, CLIENT_REFUSED, list_alarms
from keap_connect.refresh.due import lag_seconds
from keap_connect.refresh.heartbeat import list_workers

LONGEST_LAG_SECONDS = 600


@dataclass(frozen=True)
class Refreshing:
    alarms: list[Alarm]
    workers: list[Worker]  # that gave a sign of life within the last minute
    lag_seconds: float  # how long the account that waits longest has been due

    @property
    def is_ready(self) -> bool:
        """False if a person has to act now: refreshing is paused, or no worker runs and work waits ten minutes."""
        return not self.alarms and (bool(self.workers) or self.lag_seconds < LONGEST_LAG_SECONDS)

    @property
    def pauses(self) -> list[str]:
        return [f"Refreshing is paused: {alarm.reason} {ADVICE[alarm.name]}" for alarm in self.alarms]

    @property
    def client_refusal(self) -> str | None:
        return next((alarm.reason for alarm in self.alarms if alarm.name == CLIENT_REFUSED), None)

    @property
    def worker_sentence(self) -> str:
        if not self.workers:
            return "No worker is running, so accounts are refreshed only when a job asks."
        running = f"{len(self.workers)} {'worker is' if len(self.workers) == 1 else 'workers are'} running"
        if self.alarms:
            return f"{running}; refreshing is paused."
        minutes = int(self.lag_seconds / 60)
        return f"{running}, {minutes} min behind." if minutes else f"{running}, up to date."

    def findings(self, counts: Mapping[str, int]) -> Iterator[Finding]:
        """Judge it; `counts` is the number of accounts in each state."""
        for alarm in self.alarms:
            yield wrong("alarm", alarm.reason, ADVICE[alarm.name])
        if not self.alarms:
            yield well("alarms", "Nothing pauses refreshing.")
        for worker in self.workers:
            if worker.paused_until:
                yield attention("worker", f"{worker.name} pauses: {worker.pause_reason}", "It continues by itself.")
        if not self.workers:
            is_missed = counts[AccountState.ACTIVE] + counts[AccountState.AT_RISK] > 0
            yield (wrong if is_missed else attention)(
                "worker", self.worker_sentence, "Start one: ./keap-connect worker"
            )
        elif self.lag_seconds > LONGEST_LAG_SECONDS and not self.alarms:
            advice = "Look at the worker's log; raise REFRESH_RATE_PER_MINUTE if it is at its limit."
            yield attention("worker", self.worker_sentence, advice)
        else:
            yield well("worker", self.worker_sentence)
        if lost := counts[AccountState.RECONNECT_REQUIRED]:
            sentence = f"{lost} {'account waits' if lost == 1 else 'accounts wait'} for a person to authorize again."
            yield attention("accounts", sentence, "./keap-connect accounts list --state reconnect_required")
        else:
            yield well("accounts", f"{sum(counts.values())} stored, none waits for a person.")


def read_refreshing() -> Refreshing:
    """Read it, with statements whose cost does not grow with the number of accounts."""
    return Refreshing(list_alarms(), list_workers(), lag_seconds())


def check_refreshing() -> Iterator[Finding]:
    return read_refreshing().findings(count_states())


def is_ready() -> bool:
    """Whether the database answers, TOKEN_KEYS opens what it stores, and due accounts are refreshed."""
    try:
        check_keys()
        return read_refreshing().is_ready
    except (SQLAlchemyError, SettingsError):
        return False
