"""Account Central: a customer's own pages, with API Access and the list of authorized applications."""

from flask import Blueprint, Response, abort, render_template, request

from keap_connect.sandbox.answers import see_other
from keap_connect.sandbox.people import Person, find_person
from keap_connect.sandbox.sign_in import sign_in_url, signed_in_person, to_sign_in
from keap_connect.sandbox.world import current_world

account_central_pages = Blueprint("account_central", __name__, url_prefix="/app/central")


@account_central_pages.before_request
def ask_who() -> Response | None:
    return None if signed_in_person() else to_sign_in()


def current_person() -> Person:
    return signed_in_person() or abort(401)


def reachable(tenant_id: str) -> tuple[str, str]:
    """The Keap app's id and name, if the person signed in can reach it."""
    if tenant_id not in current_person().tenant_ids:
        abort(404, "This login cannot reach that Keap app.")
    return tenant_id, current_world().tenants.name(tenant_id)


@account_central_pages.get("/home")
def index() -> str:
    person = current_person()
    tenants = current_world().tenants.names(person.tenant_ids)
    return render_template("central_home.html", person=person, tenants=tenants, other_login=sign_in_url())


@account_central_pages.get("/<tenant_id>/api-access")
def api_access(tenant_id: str) -> str:
    return render_template("api_access.html", tenant=reachable(tenant_id))


@account_central_pages.post("/<tenant_id>/api-access")
def generate_token(tenant_id: str) -> str | tuple[str, int]:
    """Issue a pair without a redirect, for anybody who has a developer app's id and secret."""
    world, tenant = current_world(), reachable(tenant_id)
    client_id = request.form.get("client_id", "").strip()
    app = world.apps.find(client_id)
    if app is None or not app.has_secret(request.form.get("client_secret", "").strip()):
        problem = "Keap does not know this client id, or the client secret is another one."
        return render_template("api_access.html", tenant=tenant, problem=problem, client_id=client_id), 400
    with world.store.transaction():
        grant_id = world.grants.open(client_id, current_person().person_id, tenant_id)
        pair = world.grants.issue_pair(grant_id, tenant_id)
    shows_refresh_token = world.switches.positions.show_refresh_token_on_api_access
    return render_template("api_token.html", tenant=tenant, pair=pair, shows_refresh_token=shows_refresh_token)


@account_central_pages.get("/<tenant_id>/authorized-applications")
def authorized_applications(tenant_id: str) -> str:
    tenant = reachable(tenant_id)
    rows = [(row, find_person(row["person_id"])) for row in current_world().grants.live_grants(tenant_id)]
    return render_template("authorized_applications.html", tenant=tenant, rows=rows)


@account_central_pages.post("/<tenant_id>/authorized-applications")
def withdraw(tenant_id: str) -> Response:
    reachable(tenant_id)
    person = find_person(request.form.get("person_id")) or abort(400, "Nobody has that number.")
    current_world().grants.withdraw(tenant_id, person.person_id, request.form.get("client_id"))
    return see_other(request.path)
