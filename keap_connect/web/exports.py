"""Downloading all accounts as CSV, without tokens."""

from flask import Blueprint, make_response, render_template, request, stream_with_context
from flask import Response as FlaskResponse
from werkzeug.wrappers import Response

from keap_connect.accounts.exporting import export_csv
from keap_connect.clock import utc_now
from keap_connect.web.auth import Audience, open_to, signed_in_admin
from keap_connect.web.password_again import password_is_right

bp = Blueprint("exports", __name__, url_prefix="/export")


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def accounts() -> Response:
    """Ask for the password, then send the file as it is read."""
    if request.method != "POST":
        return _form()
    if not password_is_right():
        return _form("The password is wrong. Nothing was exported.", 401)
    download = FlaskResponse(stream_with_context(export_csv(signed_in_admin().email)), mimetype="text/csv")
    download.headers["Content-Disposition"] = f'attachment; filename="keap-accounts-{utc_now():%Y-%m-%d}.csv"'
    return download


def _form(error: str | None = None, status: int = 200) -> Response:
    return make_response(render_template("exports/accounts.html", error=error), status)
