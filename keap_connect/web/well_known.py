"""Addresses that browsers and people try without a link to them (RFC 8615), and the logo of the service."""

from datetime import timedelta

from flask import Response, abort
from werkzeug.wrappers import Response as AnyResponse

from keap_connect.clock import utc_now
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, see_other

bp = Pages("well_known", __name__)


@bp.page("/logo", Audience.ANYONE)
def logo() -> Response:
    found = services().settings.service.logo
    if found is None:
        abort(404)
    answer = Response(found.content, mimetype=f"image/{found.kind}")
    answer.headers["Cache-Control"] = "public, max-age=3600"
    return answer


@bp.page("/favicon.ico", Audience.ANYONE)
def favicon() -> AnyResponse:
    return see_other("static", filename="favicon.svg")


@bp.page("/.well-known/change-password", Audience.ANYONE)
def change_password() -> AnyResponse:
    return see_other("profile.show", _anchor="change-password")


@bp.page("/.well-known/security.txt", Audience.ANYONE)
def security_txt() -> Response:
    """Say whom to write to about a weakness (RFC 9116)."""
    settings = services().settings
    if settings.service.support_email is None:
        abort(404)
    expires = (utc_now() + timedelta(days=90)).strftime("%Y-%m-%dT00:00:00Z")
    contact = f"Contact: mailto:{settings.service.support_email}\nExpires: {expires}\n"
    canonical = f"Canonical: {settings.public_url}/.well-known/security.txt\n"
    return Response(contact + canonical, mimetype="text/plain")
