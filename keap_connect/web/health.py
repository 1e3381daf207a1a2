"""Whether this process lives and can serve; discloses nothing else."""

from flask import Blueprint
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.database import read_session
from keap_connect.web.door import Audience, open_to

bp = Blueprint("health", __name__)


@bp.get("/healthz")
@open_to(Audience.ANYONE)
def healthz() -> tuple[str, int]:
    """Answer as long as the process serves requests."""
    return "ok\n", 200


@bp.get("/readyz")
@open_to(Audience.ANYONE)
def readyz() -> tuple[str, int]:
    """Answer 200 when the database answers, else 503."""
    try:
        with read_session() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return "not ready\n", 503
    return "ready\n", 200
