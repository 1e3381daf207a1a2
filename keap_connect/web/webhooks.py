"""The programs that are told of changes by webhook, and what was sent to each."""

from typing import Any

from flask import abort, make_response, render_template, request
from werkzeug.wrappers import Response

from keap_connect.events.history import ANNOUNCED
from keap_connect.notifications import endpoints
from keap_connect.web.auth import Audience, Pages, actor, see_other

bp = Pages("webhooks", __name__, url_prefix="/webhooks")
DELIVERIES_SHOWN = 20


def _form(webhook_id: int | None = None, errors: dict[str, str] | None = None) -> str:
    found = endpoints.get_endpoint(webhook_id) if webhook_id else None
    stored = {"url": found.url, "name": found.name} if found else {}
    chosen = request.form.getlist("types") if errors else (found and found.types) or []
    typed = request.form if errors else stored
    return render_template(
        "webhooks/edit.html", webhook=found, typed=typed, chosen=chosen, types=ANNOUNCED, errors=errors or {}
    )


def _typed() -> dict[str, Any]:
    typed = request.form
    return {"url": typed.get("url"), "name": typed.get("name"), "types": typed.getlist("types") or None}


def _show_secret(saved: endpoints.SavedEndpoint) -> Response:
    return make_response(render_template("webhooks/secret.html", webhook=saved.row, secret=saved.secret))


@bp.page("", Audience.VIEWER)
def index() -> str:
    return render_template("webhooks/index.html", webhooks=endpoints.list_endpoints())


@bp.form("/new", Audience.ADMIN, _form)
def create() -> Response:
    typed = _typed()
    return _show_secret(endpoints.add_endpoint(typed["url"] or "", typed["name"], typed["types"], actor()))


@bp.page("/<int:webhook_id>", Audience.VIEWER)
def show(webhook_id: int) -> str:
    """Show an endpoint with its deliveries, the newest first."""
    before = request.args.get("before", type=int)
    page = endpoints.list_deliveries(webhook_id, before, DELIVERIES_SHOWN)
    return render_template("webhooks/show.html", webhook=endpoints.get_endpoint(webhook_id), page=page, before=before)


@bp.form("/<int:webhook_id>/edit", Audience.ADMIN, _form)
def edit(webhook_id: int) -> Response:
    endpoints.change_endpoint(webhook_id, actor(), _typed())
    return see_other("webhooks.show", "The webhook is changed.", webhook_id=webhook_id)


@bp.act("/<int:webhook_id>/change", Audience.ADMIN)
def change(webhook_id: int) -> Response:
    act = request.form.get("act")
    endpoints.get_endpoint(webhook_id)
    if act == "rotate":
        return _show_secret(endpoints.change_endpoint(webhook_id, actor(), {"rotate_secret": True}))
    if act == "test":
        endpoints.send_test(webhook_id)
        notice = "A test is sent within seconds. Its delivery below shows the answer."
        return see_other("webhooks.show", notice, webhook_id=webhook_id)
    if act in {"on", "off"}:
        endpoints.change_endpoint(webhook_id, actor(), {"is_on": act == "on"})
        return see_other("webhooks.show", f"The webhook is switched {act}.", webhook_id=webhook_id)
    if act != "remove":
        abort(400)
    removed = endpoints.remove_endpoint(webhook_id, actor())
    return see_other("webhooks.index", f"The webhook {removed.name} is removed.")


@bp.act("/<int:webhook_id>/deliveries/<int:delivery_id>/redeliver", Audience.ADMIN)
def redeliver(webhook_id: int, delivery_id: int) -> Response:
    endpoints.redeliver(webhook_id, delivery_id)
    return see_other("webhooks.show", "It is sent again within seconds.", webhook_id=webhook_id)
