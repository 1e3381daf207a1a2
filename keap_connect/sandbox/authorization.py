"""The authorize pages: sign in, pick a Keap app, Allow or Deny, back to the client.

Source: RFC 6749 section 4.1.1 and 4.1.2, with Keap's deviations.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, render_template, request
from oauthlib.common import add_params_to_uri
from oauthlib.oauth2.rfc6749.errors import FatalClientError, InvalidClientIdError, OAuth2Error

from keap_connect.sandbox import endpoints
from keap_connect.sandbox.answers import ERROR_URI, see_other
from keap_connect.sandbox.apps import App, RedirectURIMode, is_acceptable
from keap_connect.sandbox.authorization_server import Consent, current_authorization_server
from keap_connect.sandbox.calls import answer
from keap_connect.sandbox.fault_library import Call
from keap_connect.sandbox.people import TENANT_NAMES, Person
from keap_connect.sandbox.sign_in import HOME, sign_in_url, signed_in_person, to_sign_in
from keap_connect.sandbox.world import World, current_world

authorization_pages = Blueprint("authorization", __name__)


@dataclass(frozen=True)
class AuthorizationRequest:
    """The parameters Keap looks at, with its defaults; all others are ignored."""

    app: App
    redirect_uri: str
    state: str | None
    url: str

    def redirect_with(self, *parameters: tuple[str, str]) -> Response:
        """Send the person back to the client; `state` comes last and verbatim."""
        state = [] if self.state is None else [("state", self.state)]
        return Response("", 302, {"Location": add_params_to_uri(self.redirect_uri, [*parameters, *state])})

    def refuse(self, error: str, description: str) -> Response:
        return self.redirect_with(("error", error), ("error_description", description), ("error_uri", ERROR_URI))

    def deny(self) -> Response:
        return self.refuse("access_denied", "User denied access to resource")


@authorization_pages.get("/app/oauth/authorize")
def show() -> Response | str:
    if "redirect_uri" not in request.args and current_world().apps.find(request.args.get("client_id")):
        return see_other(HOME)  # where the link of Keap's own guide ends: it names the client id alone
    wish = authorization_request(current_world())
    if isinstance(wish, Response):
        return wish
    person = signed_in_person()
    if person is None:
        return to_sign_in()
    tenants = current_world().tenants.names(person.tenant_ids)
    return render_template(
        "consent.html", person=person, tenants=tenants, app=wish.app, wish=wish, other_login=sign_in_url()
    )


@authorization_pages.post("/app/oauth/authorize")
def decide() -> Response:
    world = current_world()
    wish = authorization_request(world)
    if isinstance(wish, Response):
        return wish
    person = signed_in_person()
    if person is None:
        return to_sign_in()
    is_allowed = request.form.get("decision") == "allow"
    tenant_id = request.form.get("tenant_id", "")
    # A program that plays many customers may name a made-up app, as it may for /sandbox/api/grants.
    is_made_up = tenant_id not in TENANT_NAMES and re.fullmatch(r"[a-z]+\d+", tenant_id)
    if is_allowed and person.tenant_ids and tenant_id not in person.tenant_ids and not is_made_up:
        abort(400, "Pick one of the Keap apps in the list.")

    def act() -> Response:
        # Keap says the same to a login without any Keap app, even after Allow.
        return allow(world, wish, person, tenant_id) if is_allowed and person.tenant_ids else wish.deny()

    return answer(world, Call(endpoints.AUTHORIZE, act, wish.deny, world.grants))


def allow(world: World, wish: AuthorizationRequest, person: Person, tenant_id: str) -> Response:
    with world.store.transaction():
        headers, _, status = current_authorization_server().create_authorization_response(
            wish.url, credentials={"user": Consent(person.person_id, tenant_id)}
        )
    return Response("", status, headers)


def authorization_request(world: World) -> AuthorizationRequest | Response:
    """Check the request; a bad one ends in a redirect with an error, or in a page where that is not safe."""
    wish = AuthorizationRequest(
        app=world.apps.find(request.args.get("client_id")) or App("", ""),
        redirect_uri=request.args.get("redirect_uri", ""),
        state=request.args.get("state"),
        url=checked_url(world),
    )
    try:
        current_authorization_server().validate_authorization_request(wish.url)
    except InvalidClientIdError:
        if is_acceptable(wish.redirect_uri, RedirectURIMode(world.switches.positions.redirect_uri_mode)):
            return wish.refuse("server_error", "An error occurred")
        abort(400, "Keap does not know this client id, and the redirect URI is not acceptable either.")
    except FatalClientError as error:
        abort(400, f"{error.description or 'The request is not complete'} ({error.error}).")
    except OAuth2Error as error:
        return wish.refuse(str(error.error), error.description or "An error occurred")
    return wish


def checked_url(world: World) -> str:
    """The request as oauthlib should see it: Keap's defaults added, unknown parameters left out."""
    names = ["client_id", "redirect_uri", "state"]
    if world.switches.positions.pkce:
        names += ["code_challenge", "code_challenge_method"]
    parameters = {"response_type": "code", "scope": "full"}
    parameters |= {name: request.args[name] for name in [*parameters, *names] if name in request.args}
    return f"{request.base_url}?{urlencode(parameters)}"
