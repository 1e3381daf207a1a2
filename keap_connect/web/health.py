"""Whether this process lives, and whether the installation is ready; discloses nothing else.

/healthz is for load balancers: a process that lives returns valid tokens even while no worker runs. /readyz is for
alerts.
"""

from flask import Blueprint, Response

from keap_connect.health.refreshing import is_ready
from keap_connect.web.auth import Audience, open_to

bp = Blueprint("health", __name__)


@bp.get("/healthz")
@open_to(Audience.ANYONE)
def healthz() -> Response:
    return Response("ok\n", mimetype="text/plain")


@bp.get("/readyz")
@open_to(Audience.ANYONE)
def readyz() -> Response:
    """Answer 200 when the database, the key and refreshing are in order, else 503."""
    text, status = ("ready\n", 200) if is_ready() else ("not ready\n", 503)
    return Response(text, status, mimetype="text/plain")
