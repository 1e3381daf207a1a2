"""Importing credentials that somebody already has: one, or a file of many as a job."""

from flask import flash, render_template, request
from werkzeug.wrappers import Response

from keap_connect.accounts.directory import view_account
from keap_connect.clock import utc_now
from keap_connect.connect.import_files import MOST_BYTES, MOST_LINES
from keap_connect.connect.importing import UNPROVEN, ImportedCredential, import_credential
from keap_connect.errors import FormRefused, ImportRefused, TemporarilyUnavailable, TenantConflict
from keap_connect.jobs.imports import start_import
from keap_connect.jobs.records import list_jobs
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.models import IMPORTS, CredentialKind
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, actor, check_password, see_other

bp = Pages("imports", __name__, url_prefix="/import")
PASTED = "pasted_token"
FORM_BYTES = 16 * 1024  # what a browser sends around the file
MOST_JOBS_SHOWN = 5


def _one_form() -> str:
    # What may be a secret is not sent back to the browser.
    typed = {name: request.form.get(name, "") for name in ("kind", "label", "external_id", "unusual_key")}
    return render_template("imports/one.html", typed=typed, client_id=services().keap.client_id)


def _file_form() -> str:
    limits = {"lines": f"{MOST_LINES:,}", "bytes": f"{MOST_BYTES // 1024**2} MB"}
    values = {"limits": limits, "jobs": list_jobs(IMPORTS, MOST_JOBS_SHOWN)}
    return render_template("imports/file.html", **values)


@bp.form("", Audience.ADMIN, _one_form)
def one() -> Response:
    check_password()
    with keap_call_slot():
        try:
            account_id = import_credential(_pasted_credential(), actor())
        except (TenantConflict, TemporarilyUnavailable) as refusal:
            raise FormRefused(str(refusal), "access_token") from refusal
    account = view_account(account_id)
    expires_at = account.access_token_expires_at
    if expires_at is not None and expires_at <= utc_now():
        flash(f"Stored. {UNPROVEN}", "attention")
    elif account.needs_first_refresh:
        flash(
            "Imported: Keap accepts its access token. Its first refresh will show whether it stays connected.", "done"
        )
    else:
        flash("Imported: Keap accepts it, and it is stored.", "done")
    return see_other("accounts.show", account_id=account_id)


@bp.form("/file", Audience.ADMIN, _file_form, most_bytes=MOST_BYTES + FORM_BYTES)
def file() -> Response:
    """Import the lines of a file, or only check them; the worker does it."""
    only_checks = request.form.get("choice") == "check"
    if not only_checks:
        check_password()
    sent = request.files.get("file")
    if sent is None or not sent.filename:
        raise FormRefused("Choose a file.", "file")
    takes_unusual_keys = request.form.get("unusual_key") == "1"
    job_id = start_import(sent.read(), actor(), only_checks=only_checks, takes_unusual_keys=takes_unusual_keys)
    return see_other("jobs.show", job_id=job_id)


def _pasted_credential() -> ImportedCredential:
    kind, refresh_token = request.form.get("kind", ""), _text("refresh_token")
    if kind == PASTED:
        kind = CredentialKind.OAUTH if refresh_token else CredentialKind.ACCESS_TOKEN_ONLY
    elif kind not in {CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.SERVICE_ACCOUNT_KEY}:
        raise ImportRefused("Choose what you have.", "kind")
    return ImportedCredential(
        _text("access_token") or "",
        refresh_token,
        kind=CredentialKind(kind),
        external_id=_text("external_id"),
        label=_text("label"),
        replaces=request.form.get("replace") == "1",
        takes_unusual_key=request.form.get("unusual_key") == "1",
    )


def _text(name: str) -> str | None:
    return request.form.get(name, "").strip() or None
