"""/metrics in the text format of Prometheus, read from the database, since the workers are other processes.

It needs an API key with the scope `metrics:read`, and answers under any host name. While PUBLIC_URL is on loopback,
programs on this machine need no key.
"""

from collections.abc import Collection, Iterator

from flask import Blueprint, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keap_connect.access.api_keys import Scope
from keap_connect.accounts.stored_state import count_states
from keap_connect.api.auth import require_key
from keap_connect.api.errors import answer_errors
from keap_connect.health.refreshing import read_refreshing
from keap_connect.services import services
from keap_connect.settings import LOOPBACK_HOSTS, host_name

bp = Blueprint("metrics", __name__)
answer_errors(bp)
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

    def collect(self) -> Iterator[Metric]:
        refreshing = read_refreshing()
        workers = refreshing.workers
        yield _family("accounts", "Accounts in each state.", "state", count_states(self._only))
        yield _family("alarm", "What pauses refreshing.", "name", {pause.name: 1 for pause in refreshing.pauses})
        yield _family("workers", "Workers heard of within a minute.", "", {"": len(workers)})
        paused = sum(worker.paused_until is not None for worker in workers)
        yield _family("workers_paused", "Workers whose circuit is open.", "", {"": paused})
        if self._only is not None:
            return  # the rest counts the work for all accounts
        yield _family(
            "lag_seconds", "For how long the account that waits longest has been due.", "", {"": refreshing.lag_seconds}
        )
        refreshed = {worker.name: worker.refreshed for worker in workers}
        yield _family("refreshed", "Refreshes stored since the worker started.", "worker", refreshed)
        failed = {worker.name: worker.failed for worker in workers}
        yield _family("failed", "Refreshes that failed since the worker started.", "worker", failed)


def _family(name: str, meaning: str, label: str, values: dict[str, int] | dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"keap_connect_{name}", meaning, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family
