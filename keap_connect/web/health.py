"""The page Health; and, for programs, whether this process lives and the installation is ready, and nothing else.

/healthz is for load balancers: a process that lives returns valid tokens even while no worker runs. /readyz is for
alerts.
"""

from datetime import UTC, datetime

from flask import Response, render_template, request

from keap_connect.health.figures import read_health
from keap_connect.health.refreshing import is_ready, read_refreshing
from keap_connect.web.auth import Audience, Pages
from keap_connect.web.health_charts import list_charts

bp = Pages("health", __name__)


@bp.page("/health", Audience.VIEWER)
def show() -> str:
    until = _moment(request.args.get("until", ""))
    health = read_health(until)
    charts = [] if health.is_empty and until is None else list_charts(health)
    return render_template(
        "health/show.html", health=health, charts=charts, is_newest=until is None, refreshing=read_refreshing()
    )


@bp.page("/healthz", Audience.ANYONE)
def healthz() -> Response:
    return Response("ok\n", mimetype="text/plain")


@bp.page("/readyz", Audience.ANYONE)
def readyz() -> Response:
    """Answer 200 when the database, the key and refreshing are in order, else 503."""
    text, status = ("ready\n", 200) if is_ready() else ("not ready\n", 503)
    return Response(text, status, mimetype="text/plain")


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
