"""Webhooks, and what was sent to each; and mail: whether it works, a test mail, and the page that ends such mails."""

from typing import Any

from flask import abort, make_response, render_template, request
from werkzeug.wrappers import Response

from keap_connect.access.mail_choices import read_unsubscribe, unsubscribe
from keap_connect.events.history import ANNOUNCED
from keap_connect.notifications import endpoints
from keap_connect.notifications.mail import list_results, send_trial
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, actor, see_other, signed_in_admin

bp = Pages("webhooks", __name__, url_prefix="/webhooks")
DELIVERIES_SHOWN = 20
mail = Pages("mail", __name__, url_prefix="/mail")


def _form(webhook_id: int | None = None) -> str:
    found = endpoints.get_endpoint(webhook_id) if webhook_id else None
    is_refused = request.method == "POST"
    chosen = request.form.getlist("types") if is_refused else (found and found.types) or []
    typed = request.form if is_refused else {"url": found.url, "name": found.name} if found else {}
    values = {"webhook": found, "typed": typed, "chosen": chosen, "types": ANNOUNCED}
    return render_template("webhooks/edit.html", **values)


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


@mail.form("", Audience.ADMIN, endpoint="index")
def show_mail() -> str:
    """Show the last results; POST sends a test mail to the admin, and shows what was said."""
    settings = services().settings
    conversation = send_trial(signed_in_admin().email) if request.method == "POST" else None
    values = {"mail": settings.mail, "mails_customers": settings.mails_customers, "results": list_results()}
    return render_template("mail/index.html", conversation=conversation, **values)


@mail.form("/unsubscribe/<token>", Audience.ANYONE, takes_one_click=True)
def end(token: str) -> Response | str:
    """Ask by a button, since programs open the links in mails; the POST of a mail program asks nobody (RFC 8058)."""
    email, choice = read_unsubscribe(token)
    if request.method == "POST":
        unsubscribe(token)
    return render_template("mail/unsubscribe.html", email=email, choice=choice, is_done=request.method == "POST")
