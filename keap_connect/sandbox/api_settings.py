"""A Keap app's API Settings: where its people make and delete Personal Access Tokens and Service Account Keys."""

from flask import Blueprint, Response, abort, render_template, request

from keap_connect.sandbox.account_central import ask_who, current_person, reachable
from keap_connect.sandbox.answers import see_other
from keap_connect.sandbox.keys import KeyKind
from keap_connect.sandbox.people import find_person
from keap_connect.sandbox.world import current_world

api_settings_pages = Blueprint("api_settings", __name__, url_prefix="/app/central/<tenant_id>/api-settings")
api_settings_pages.before_request(ask_who)


@api_settings_pages.get("")
def index(tenant_id: str) -> str:
    tenant, person = reachable(tenant_id), current_person()
    keys = [(key, find_person(key.person_id)) for key in current_world().keys.visible(person, tenant_id)]
    return render_template("api_settings.html", tenant=tenant, person=person, keys=keys)


@api_settings_pages.post("")
def make(tenant_id: str) -> str:
    """Make a key and show it once."""
    tenant, person = reachable(tenant_id), current_person()
    kind = request.form.get("kind", "")
    if kind not in set(KeyKind):
        abort(400, "Pick one of the two kinds.")
    if kind == KeyKind.SERVICE_ACCOUNT and not person.is_admin:
        abort(403, "Only an admin of the Keap app can make a Service Account Key.")
    secret = current_world().keys.make(KeyKind(kind), person, tenant_id)
    return render_template("api_key.html", tenant=tenant, kind=kind, secret=secret)


@api_settings_pages.post("/<int:number>/delete")
def delete(tenant_id: str, number: int) -> Response:
    reachable(tenant_id)
    keys = current_world().keys
    if number not in {key.number for key in keys.visible(current_person(), tenant_id)}:
        abort(404, "There is no such key among those you see.")
    keys.delete(number)
    return see_other(request.path.removesuffix(f"/{number}/delete"))
