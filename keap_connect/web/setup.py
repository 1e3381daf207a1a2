"""The setup guide: Keap's own steps with their ticks, and the check of the token endpoint."""

from flask import flash, redirect, render_template, url_for
from werkzeug.wrappers import Response

from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import count_states
from keap_connect.connect.client_check import ClientStanding, check_client, find_client_check
from keap_connect.connect.journeys import list_failures
from keap_connect.health.refreshing import read_refreshing
from keap_connect.keap.authorization import plain_authorization_url
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, signed_in_admin
from keap_connect.web.setup_steps import Tick, list_steps

bp = Pages("setup", __name__, url_prefix="/setup")


@bp.page("", Audience.VIEWER)
def index() -> str:
    settings, keap, check, counts = services().settings, services().keap, find_client_check(), count_states()
    connected, refreshing = counts[AccountState.ACTIVE] + counts[AccountState.AT_RISK], read_refreshing()
    steps = list_steps(settings, check, connected, refreshing, list_failures())
    return render_template(
        "setup/index.html",
        refreshing=refreshing,
        steps=steps,
        done=sum(step.tick in {Tick.DONE, Tick.NOT_NEEDED} for step in steps),
        next_step=next((step for step in steps if step.tick in {Tick.TO_DO, Tick.TROUBLE}), None),
        checked_at=check.checked_at if check else None,
        client_id=keap.client_id,
        redirect_uri=keap.redirect_uri,
        authorize_url=plain_authorization_url(keap, keap.redirect_uri),
        guide_url=plain_authorization_url(keap, None),
        start_url=settings.public_url + url_for("connect.index"),
    )


@bp.act("/check", Audience.ADMIN)
def check() -> Response:
    with keap_call_slot():
        checked = check_client(signed_in_admin().email)
    if checked.standing is ClientStanding.KNOWN:
        flash(f"The token endpoint knows the client: it refused only the code. {checked.reason}", "done")
    elif checked.standing is ClientStanding.REFUSED:
        flash(f"The token endpoint refuses the client id or the secret. {checked.reason}", "failed")
    else:
        flash(
            f"The answer of the token endpoint does not show whether it knows the client. {checked.reason}", "attention"
        )
    return redirect(url_for("setup.index") + "#check", code=303)
