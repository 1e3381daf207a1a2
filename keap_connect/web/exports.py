"""Downloading all accounts as CSV, without tokens."""

from collections.abc import Iterator

from flask import Blueprint, render_template, stream_with_context
from flask import Response as FlaskResponse

from keap_connect.accounts.exporting import export_csv
from keap_connect.clock import utc_now
from keap_connect.web.auth import Audience, actor, open_to
from keap_connect.web.forms import check_password, form

bp = Blueprint("exports", __name__, url_prefix="/export")


def _form(errors: dict[str, str] | None = None) -> str:
    return render_template("exports/accounts.html", errors=errors or {})


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@form(_form)
def accounts() -> FlaskResponse:
    check_password()
    return as_download(export_csv(actor()))


def as_download(pieces: Iterator[str]) -> FlaskResponse:
    download = FlaskResponse(stream_with_context(pieces), mimetype="text/csv")
    download.headers["Content-Disposition"] = f'attachment; filename="keap-accounts-{utc_now():%Y-%m-%d}.csv"'
    return download
