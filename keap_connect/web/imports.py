"""Importing credentials that somebody already has: one, or a file of many after a dry run."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.connect.import_files import MOST_BYTES, import_file, preview_file
from keap_connect.connect.importing import ImportedCredential, import_credential
from keap_connect.connect.pending_files import find_pending_file, forget_pending_file, store_pending_file
from keap_connect.errors import FormRefused, ImportRefused, LinesRefused, TemporarilyUnavailable, TenantConflict
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.models import CredentialKind
from keap_connect.services import services
from keap_connect.web.auth import Audience, actor, open_to, signed_in_admin
from keap_connect.web.browser_security import takes_up_to
from keap_connect.web.forms import check_password, form

bp = Blueprint("imports", __name__, url_prefix="/import")
PASTED = "pasted_token"
FORM_BYTES = 16 * 1024  # what a browser sends around the file


def _one_form(errors: dict[str, str] | None = None) -> str:
    # What may be a secret is not sent back to the browser.
    typed = {name: request.form.get(name, "") for name in ("kind", "label", "external_id", "unusual_key")}
    return render_template("imports/one.html", errors=errors or {}, typed=typed, client_id=services().keap.client_id)


def _file_form(errors: dict[str, str] | None = None) -> str:
    pending = find_pending_file(signed_in_admin().id)
    return render_template("imports/file.html", errors=errors or {}, pending=pending)


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@form(_one_form)
def one() -> Response:
    check_password()
    with keap_call_slot():
        try:
            account_id = import_credential(_pasted_credential(), actor())
        except (TenantConflict, TemporarilyUnavailable) as refusal:
            raise FormRefused(str(refusal), "access_token") from refusal
    flash("Imported: Keap accepts it, and it is stored.", "done")
    return redirect(url_for("accounts.show", account_id=account_id), code=303)


@bp.route("/file", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@takes_up_to(MOST_BYTES + FORM_BYTES)
@form(_file_form)
def file() -> Response:
    """Check a file without storing accounts. A correct one is kept encrypted until the admin confirms it."""
    sent, admin_id = request.files.get("file"), signed_in_admin().id
    content = sent.read() if sent else b""
    with keap_call_slot():
        forget_pending_file(admin_id)
        try:
            preview = preview_file(content)
        except ImportRefused as refusal:
            raise FormRefused(str(refusal), "file") from refusal
    if preview.problems:
        raise LinesRefused(preview.problems)
    store_pending_file(admin_id, content, preview)
    return redirect(url_for("imports.file"), code=303)


@bp.post("/file/confirm")
@open_to(Audience.ADMIN)
@form(_file_form)
def confirm() -> Response:
    """Import the file that waits, or drop it."""
    admin_id = signed_in_admin().id
    pending = find_pending_file(admin_id)
    if pending is None:
        raise FormRefused("The file waited longer than ten minutes and was deleted. Upload it again.", "file")
    if request.form.get("choice") == "drop":
        forget_pending_file(admin_id)
        return redirect(url_for("imports.file"), code=303)
    check_password()
    with keap_call_slot():
        ids = import_file(pending.content, actor())
    forget_pending_file(admin_id)
    flash(f"{len(ids)} {'account was' if len(ids) == 1 else 'accounts were'} imported.", "done")
    return redirect(url_for("accounts.index"), code=303)


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
