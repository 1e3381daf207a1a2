"""Importing what Keap shows by hand: one credential, or a file of many after a dry run."""

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.connect.import_files import MOST_BYTES, import_file, preview_file
from keap_connect.connect.importing import ImportedCredential, import_credential
from keap_connect.connect.pending_files import find_pending_file, forget_pending_file, store_pending_file
from keap_connect.errors import (
    ImportRefused,
    LinesRefused,
    NameRefused,
    TemporarilyUnavailable,
    TenantConflict,
    WouldReplace,
)
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.models import CredentialKind
from keap_connect.services import services
from keap_connect.web.auth import Audience, open_to, signed_in_admin
from keap_connect.web.browser_security import takes_up_to
from keap_connect.web.password_again import password_is_right

bp = Blueprint("imports", __name__, url_prefix="/import")
PASTED = "pasted_token"
PASSWORD_WRONG = "The password is wrong. Nothing was imported."  # noqa: S105
FORGOTTEN = "The file has waited for longer than ten minutes and was forgotten. Send it again."
FORM_BYTES = 16 * 1024  # what a browser sends around the file


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def one() -> Response:
    """Import one credential. What was pasted is never shown again, whatever happens."""
    if request.method != "POST":
        return _one_form()
    try:
        if not password_is_right():
            return _one_form({"password": PASSWORD_WRONG}, 401)
        with keap_call_slot():
            account_id = import_credential(_pasted_credential(), signed_in_admin().email)
    except NameRefused as refusal:
        return _one_form({refusal.field: f"{refusal} Nothing was imported."}, 400)
    except WouldReplace as refusal:
        return _one_form(
            {"replace": f"{refusal} Nothing was imported. Paste it again and tick this if it is meant."}, 400
        )
    except (ImportRefused, TenantConflict) as refusal:
        return _one_form({"access_token": f"{refusal} Nothing was imported."}, 400)
    except TemporarilyUnavailable as refusal:
        return _one_form({"form": f"{refusal} Nothing was imported."}, 503)
    flash("Imported: Keap accepts it, and it is stored.", "done")
    return redirect(url_for("accounts.show", account_id=account_id), code=303)


@bp.route("/file", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@takes_up_to(MOST_BYTES + FORM_BYTES)
def file() -> Response:
    """Take a file and look through it: a dry run. A good one waits, sealed, for the admin to go on."""
    if request.method != "POST":
        return _file_form()
    sent = request.files.get("file")
    content = sent.read() if sent else b""
    try:
        with keap_call_slot():
            forget_pending_file(signed_in_admin().id)
            preview = preview_file(content)
    except ImportRefused as refusal:
        return _file_form({"file": str(refusal)}, status=400)
    if preview.problems:
        return _file_form(problems=preview.problems, status=400)
    store_pending_file(signed_in_admin().id, content, preview)
    return redirect(url_for("imports.file"), code=303)


@bp.post("/file/confirm")
@open_to(Audience.ADMIN)
def confirm() -> Response:
    """Import the file that waits, or drop it."""
    admin, held = signed_in_admin(), find_pending_file(signed_in_admin().id)
    if held is None:
        return _file_form({"file": FORGOTTEN}, status=400)
    if request.form.get("choice") == "drop":
        forget_pending_file(admin.id)
        return redirect(url_for("imports.file"), code=303)
    try:
        if not password_is_right():
            return _file_form({"password": PASSWORD_WRONG}, status=401)
        with keap_call_slot():
            ids = import_file(held.content, admin.email)
    except LinesRefused as refusal:
        return _file_form(problems=refusal.problems, status=400)
    forget_pending_file(admin.id)
    flash(f"{len(ids)} {'account was' if len(ids) == 1 else 'accounts were'} imported.", "done")
    return redirect(url_for("accounts.index"), code=303)


def _pasted_credential() -> ImportedCredential:
    kind, refresh_token = request.form.get("kind", ""), _text("refresh_token")
    if kind == PASTED:
        kind = CredentialKind.OAUTH if refresh_token else CredentialKind.ACCESS_TOKEN_ONLY
    elif kind not in {CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.SERVICE_ACCOUNT_KEY}:
        raise ImportRefused("Say what it is that you bring.")
    return ImportedCredential(
        _text("access_token") or "",
        refresh_token,
        kind=CredentialKind(kind),
        external_id=_text("external_id"),
        label=_text("label"),
        replaces=request.form.get("replace") == "1",
    )


def _text(name: str) -> str | None:
    return request.form.get(name, "").strip() or None


def _one_form(errors: dict[str, str] | None = None, status: int = 200) -> Response:
    page = render_template(
        "imports/one.html",
        errors=errors or {},
        kind=request.form.get("kind", PASTED),
        external_id=_text("external_id"),
        label=_text("label"),
        client_id=services().keap.client_id,
    )
    return make_response(page, status)


def _file_form(
    errors: dict[str, str] | None = None, problems: dict[int, str] | None = None, status: int = 200
) -> Response:
    held = find_pending_file(signed_in_admin().id)
    page = render_template("imports/file.html", errors=errors or {}, problems=problems or {}, held=held)
    return make_response(page, status)
