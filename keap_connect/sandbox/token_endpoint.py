"""`POST /token`: exchanges codes and refresh tokens for pairs, one at a time, in Keap's words.

Source: RFC 6749 sections 4.1.3 and 6, with Keap's deviations.
"""

from flask import Blueprint, Response, request
from oauthlib.oauth2.rfc6749.errors import InvalidRequestError, OAuth2Error

from keap_connect.sandbox import endpoints
from keap_connect.sandbox.answers import json_response
from keap_connect.sandbox.authorization_server import current_authorization_server, dead_code, dead_refresh_token
from keap_connect.sandbox.calls import Presented, answer
from keap_connect.sandbox.fault_library import Call
from keap_connect.sandbox.grants import Kind
from keap_connect.sandbox.world import World, current_world

token_endpoint = Blueprint("token_endpoint", __name__)

GRANTS = {
    "authorization_code": (endpoints.EXCHANGE, Kind.CODE),
    "refresh_token": (endpoints.REFRESH, Kind.REFRESH_TOKEN),
}


@token_endpoint.post("/token")
def token() -> Response:
    world = current_world()
    endpoint, kind = GRANTS.get(request.form.get("grant_type", ""), (endpoints.TOKEN, None))
    presented = Presented(kind or "none", request.form.get(kind, "") if kind else "")

    def refuse() -> Response:
        wording = world.switches.positions.refresh_wording
        return error_response(dead_code() if kind is Kind.CODE else dead_refresh_token(wording))

    return answer(world, Call(endpoint, lambda: issue(world), refuse, world.grants), presented)


def issue(world: World) -> Response:
    """Give Keap's answer to the form that came in, and do what it says."""
    if request.mimetype != "application/x-www-form-urlencoded" or not request.form.get("grant_type"):
        return error_response(InvalidRequestError("response_type or grant_type is required"))
    if request.query_string:
        return error_response(InvalidRequestError("URL query parameters are not allowed"))
    try:
        with world.store.transaction():
            headers, body, status = current_authorization_server().create_token_response(
                request.base_url, "POST", list(request.form.items(multi=True)), dict(request.headers)
            )
    except OAuth2Error as error:
        return error_response(error)
    return Response(body, status, headers)


def error_response(error: OAuth2Error) -> Response:
    return json_response(error.json, error.status_code)
