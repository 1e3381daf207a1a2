"""Downloading all accounts as CSV, without tokens; and the form that asks for the password before a download."""

from collections.abc import Iterator

from flask import Response as FlaskResponse
from flask import render_template, stream_with_context, url_for

from keap_connect.accounts.exporting import export_csv
from keap_connect.clock import utc_now
from keap_connect.web.auth import Audience, Pages, actor, check_password

bp = Pages("exports", __name__, url_prefix="/export")


def _form(errors: dict[str, str] | None = None) -> str:
    lead = "A CSV file with states, names, ids and dates. It has no tokens, but people's names and e-mail addresses."
    return ask_for_password("Export all accounts", lead, (url_for("accounts.index"), "Accounts"), errors)


def ask_for_password(heading: str, lead: str, back: tuple[str, str], errors: dict[str, str] | None) -> str:
    values = {"heading": heading, "lead": lead, "back": back[0], "back_to": back[1]}
    return render_template("exports/download.html", errors=errors or {}, **values)


@bp.form("", Audience.ADMIN, _form)
def accounts() -> FlaskResponse:
    check_password()
    return as_download(export_csv(actor()))


def as_download(pieces: Iterator[str], name: str = "") -> FlaskResponse:
    name = name or f"keap-accounts-{utc_now():%Y-%m-%d}"
    download = FlaskResponse(stream_with_context(pieces), mimetype="text/csv")
    download.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return download
