"""Whether accounts are kept alive: a worker that was heard of lately, and nothing that pauses refreshing."""

from collections.abc import Iterator

from keap_connect.accounts.directory import count_states
from keap_connect.accounts.state import AccountState
from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.refresh import alarms
from keap_connect.refresh.due import lag_seconds
from keap_connect.refresh.heartbeat import list_workers

MOST_LAG_SECONDS = 600


def look_at_workers() -> Iterator[Finding]:
    """Hear the workers' heartbeats, and see how long the work waits."""
    workers = list_workers()
    counts = count_states()
    living = counts[AccountState.ACTIVE] + counts[AccountState.AT_RISK]
    if not workers:
        sentence = "No worker was heard of within the last minute"
        start = "Start one: ./keap-connect worker"
        if living:
            yield wrong("worker", f"{sentence}, so accounts are refreshed only when a job asks.", start)
        else:
            yield attention("worker", f"{sentence}.", start)
        return
    for worker in workers:
        if worker.paused_until:
            yield attention("worker", f"{worker.name} pauses: {worker.pause_reason}", "It goes on by itself.")
    lag = lag_seconds()
    if lag > MOST_LAG_SECONDS:
        yield attention(
            "worker",
            f"The account that waits longest has been due for {lag / 60:.0f} minutes.",
            "Look at the worker's log; raise REFRESH_RATE_PER_MINUTE if it is at its limit.",
        )
    else:
        yield well("worker", f"{len(workers)} running, up to date.")


def look_at_alarms() -> Iterator[Finding]:
    """See what pauses refreshing, and which accounts wait for a person."""
    raised = alarms.list_alarms()
    for alarm in raised:
        yield wrong("alarm", alarm.reason, alarms.ADVICE[alarm.name])
    if not raised:
        yield well("alarms", "Nothing pauses refreshing.")
    counts = count_states()
    if counts[AccountState.RECONNECT_REQUIRED]:
        number = counts[AccountState.RECONNECT_REQUIRED]
        sentence = f"{number} {'account waits' if number == 1 else 'accounts wait'} for a person to authorize again."
        yield attention("accounts", sentence, "./keap-connect accounts list --state reconnect_required")
    else:
        yield well("accounts", f"{sum(counts.values())} stored, none waits for a person.")
