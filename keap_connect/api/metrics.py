"""/metrics in the text format of Prometheus, read from the database, since the workers are other processes.

It needs an API key with the scope `metrics:read`, and answers under any host name. While PUBLIC_URL is on loopback,
programs on this machine need no key.
"""

from collections.abc import Collection, Iterable, Iterator

from flask import Blueprint, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, core, generate_latest
from prometheus_client.registry import Collector

from keap_connect.access.api_keys import Scope
from keap_connect.accounts.stored_state import count_states
from keap_connect.addresses import LOOPBACK_HOSTS, host_name
from keap_connect.api.auth import require_key
from keap_connect.api.errors import answer_errors
from keap_connect.counters import BUCKETS, LIMITS
from keap_connect.deployment import VERSION
from keap_connect.health.refreshing import read_refreshing
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.sender import CANCELLED, GIVEN_UP, SENT, count_waiting
from keap_connect.refresh.heartbeat import read_counters
from keap_connect.refresh.recovery import list_broken, list_kept
from keap_connect.refresh.storing import Outcome
from keap_connect.services import services

bp = Blueprint("metrics", __name__)
answer_errors(bp)
# With the values of the labels that are shown from the start: Prometheus sees no increase from a missing value.
COUNTERS: dict[str, tuple[str, list[str], Iterable[str]]] = {
    "refreshes": ("Refreshes by how they ended.", ["outcome"], list(Outcome)),
    "deliveries": (
        "Attempts to send webhooks and mails, by how they ended.",
        ["kind", "outcome"],
        [f"{channel.name} {outcome}" for channel in CHANNELS for outcome in (SENT, "failed", GIVEN_UP, CANCELLED)],
    ),
    "token_errors": (
        "Token calls that got no token for a reason other than their own form or key.",
        ["error"],
        ["temporarily_unavailable", "server_error", "unreadable", "reconnect_required", "disconnected"],
    ),
}
HISTOGRAMS: dict[str, tuple[str, list[str]]] = {
    "keap_latency_seconds": ("How long calls to Keap took.", []),
    "refresh_lead_seconds": ("The time from a refresh to the end of the token that it had to be before.", []),
    "delivery_delay_seconds": (
        "The time to the delivery of a webhook or mail, from when it may be sent, or from its first failure.",
        ["kind"],
    ),
}
# A tunnel to a developer's machine can set the Host header to localhost, and writes one of these.
FORWARDING = ("Forwarded", "X-Forwarded-For", "Via")


@bp.before_request
def guard() -> None:
    if "Authorization" in request.headers or not _is_local():
        require_key(Scope.METRICS_READ)


@bp.get("/metrics")
def metrics() -> Response:
    only = g.api_key.account_ids if "api_key" in g else None
    return Response(generate_latest(FromDatabase(only)), content_type=CONTENT_TYPE_LATEST)


def _is_local() -> bool:
    names = (request.remote_addr, host_name(request.headers.get("Host", "")))
    is_forwarded = any(name in request.headers for name in FORWARDING)
    return services().settings.is_loopback and LOOPBACK_HOSTS.issuperset(names) and not is_forwarded


class FromDatabase(Collector):
    """The metrics; with `only`, those that say nothing of accounts with other ids."""

    def __init__(self, only: Collection[int] | None = None) -> None:
        self._only = only

    def collect(self) -> Iterator[core.Metric]:
        refreshing = read_refreshing()
        workers = refreshing.workers
        yield _family("accounts", "Accounts in each state.", "state", count_states(self._only))
        yield _family("alarm", "What pauses refreshing.", "name", {pause.name: 1 for pause in refreshing.pauses})
        yield _family("workers", "Workers heard of within a minute.", "", {"": len(workers)})
        paused = sum(worker.paused_until is not None for worker in workers)
        yield _family("workers_paused", "Workers whose circuit is open.", "", {"": paused})
        yield core.InfoMetricFamily("keap_connect_build", "The version of this program.", {"version": VERSION})
        if self._only is not None:
            return  # the rest counts the work for all accounts
        lag = {"": refreshing.lag_seconds}
        yield _family("lag_seconds", "For how long the account that waits longest has been due.", "", lag)
        files = {"waiting": len(list_kept()), "broken": len(list_broken())}
        yield _family("recovery_files", "New token pairs in files of this host, not in the database.", "state", files)
        waiting = dict.fromkeys((channel.name for channel in CHANNELS), 0) | count_waiting()
        yield _family("deliveries_waiting", "Webhooks and mails that wait to be sent.", "kind", waiting)
        counted = read_counters()
        for name, (meaning, labels, known) in COUNTERS.items():
            counter = core.CounterMetricFamily(f"keap_connect_{name}", meaning, labels=labels)
            for values, value in (dict.fromkeys(known, 0.0) | counted.get(name, {})).items():
                counter.add_metric(values.split(" "), value)
            yield counter
        for name, (meaning, labels) in HISTOGRAMS.items():
            yield _histogram(name, meaning, labels, counted.get(name, {}))


def _histogram(name: str, meaning: str, labels: list[str], counted: dict[str, float]) -> core.HistogramMetricFamily:
    """Add up the buckets: each holds what is in the smaller ones, too."""
    limits = LIMITS.get(name, BUCKETS)
    family = core.HistogramMetricFamily(f"keap_connect_{name}", meaning, labels=labels)
    for values in dict.fromkeys(key.rpartition(" ")[0] for key in counted):
        prefix, total, buckets = f"{values} " if values else "", 0.0, []
        for most in [*map(str, limits), "+Inf"]:
            total += counted.get(prefix + most, 0.0)
            buckets.append((most, total))
        family.add_metric(values.split(" ") if labels else [], buckets, counted.get(f"{prefix}sum", 0.0))
    return family


def _family(name: str, meaning: str, label: str, values: dict[str, int] | dict[str, float]) -> core.GaugeMetricFamily:
    family = core.GaugeMetricFamily(f"keap_connect_{name}", meaning, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family
