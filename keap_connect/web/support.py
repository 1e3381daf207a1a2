"""The page with the text for those who help with this installation."""

from flask import render_template, request

from keap_connect.health.support import support_text
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.web.auth import Audience, Pages

bp = Pages("support", __name__)


@bp.page("/support", Audience.ADMIN)
def show() -> str:
    with keap_call_slot():
        text = support_text(request.remote_addr, dict(request.headers))
    return render_template("setup/support.html", text=text)
