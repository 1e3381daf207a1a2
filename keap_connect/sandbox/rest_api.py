"""Keap's REST API as far as a connection needs it: who am I, which tenant, a first call, and the gateway in front.

The gateway answers before anything is routed: without a good token nobody learns which paths exist.
"""

import json
from collections.abc import Callable

from flask import Blueprint, Response, request

from keap_connect.sandbox import endpoints
from keap_connect.sandbox.answers import (
    APP_DISABLED,
    EXPIRED,
    NO_TOKEN,
    NOT_APPROVED,
    UNKNOWN_TOKEN,
    fault_body,
    json_response,
)
from keap_connect.sandbox.calls import Presented, answer
from keap_connect.sandbox.fault_library import Call
from keap_connect.sandbox.grants import Kind, Token
from keap_connect.sandbox.keys import PREFIX
from keap_connect.sandbox.people import Person, get_person, local_user_number
from keap_connect.sandbox.usage import usage_headers
from keap_connect.sandbox.world import World, current_world

rest_api = Blueprint("rest_api", __name__, url_prefix="/crm/rest")

Body = dict[str, object]
Describe = Callable[[World, Person, str], Body]
CONTACTS = (("Grace", "Hill"), ("Hugo", "Varga"), ("Iris", "Okafor"))
ADDRESS: Body = {
    "line1": "1 Example Way",
    "line2": "Suite 100",
    "locality": "Phoenix",
    "region": "Arizona",
    "country_code": "USA",
    "postal_code": "85001",
}


@rest_api.route("/<path:resource>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def call(resource: str) -> Response:
    world = current_world()
    secret = presented_secret()
    endpoint, describe = RESOURCES.get(resource, (endpoints.API, None))

    def act() -> Response:
        return behind_gateway(world, secret, describe)

    def refuse() -> Response:
        return refusal(world, *UNKNOWN_TOKEN)

    kind = Kind.KEY if secret.startswith(PREFIX) else Kind.ACCESS_TOKEN
    presented = Presented(kind, secret) if secret else None
    return answer(world, Call(endpoint, act, refuse, world.grants), presented)


def behind_gateway(world: World, secret: str, describe: Describe | None) -> Response:
    """Check the token or key first; only then see whether there is anything at the path."""
    if not secret:
        return refusal(world, *NO_TOKEN)
    token = world.keys.use(secret) or world.grants.find(secret, Kind.ACCESS_TOKEN)
    problem = gateway_problem(world, token) if isinstance(token, Token) else None
    if token is None or problem:
        return refusal(world, *(problem or UNKNOWN_TOKEN))
    if describe is None or request.method != "GET":
        reply = json_response(json.dumps({"message": "Resource not found"}), 404)
    else:
        body = describe(world, get_person(token.person_id), token.tenant_id)
        reply = json_response(json.dumps(body), 200)
    reply.headers.update(usage_headers(world, token))
    return reply


def presented_secret() -> str:
    """The credential behind `Bearer` (RFC 6750 section 2.1), or the key in Keap's own header; empty if neither."""
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip()
    key = request.headers.get("X-Keap-API-Key", "").strip()
    return key if key.startswith(PREFIX) else ""


def gateway_problem(world: World, token: Token) -> tuple[str, str] | None:
    if world.switches.positions.app_disabled:
        return APP_DISABLED
    return {"revoked": NOT_APPROVED, "expired": EXPIRED}.get(token.state(world.clock.now()))


def refusal(world: World, sentence: str, error_code: str) -> Response:
    """The gateway's 401; it carries Keap's headers too, all blank."""
    reply = json_response(fault_body(sentence, error_code), 401)
    reply.headers.update(usage_headers(world, None))
    return reply


def user_info_v1(_: World, person: Person, tenant_id: str) -> Body:
    return {
        "sub": local_user_number(person, tenant_id),
        "email": person.email,
        "given_name": person.given_name,
        "family_name": person.family_name,
        "middle_name": None,
        "preferred_name": None,
        "global_user_id": person.person_id,
        "infusionsoft_id": person.email,
        "is_admin": person.is_admin,
    }


def user_info_v2(world: World, person: Person, tenant_id: str) -> Body:
    body: Body = {
        "email": person.email,
        "sub": local_user_number(person, tenant_id),
        "id": str(person.person_id),
        "keap_id": person.email,
        "family_name": person.family_name,
        "given_name": person.given_name,
        "is_admin": person.is_admin,
    }
    return body | ({"tenant_id": tenant_id} if world.switches.positions.userinfo_v2_tenant_id else {})


def business_profile(world: World, _: Person, tenant_id: str) -> Body:
    return {
        "name": world.tenants.name(tenant_id),
        "email": f"office@{tenant_id}.example.com",
        "website": f"https://{tenant_id}.example.com",
        "phone": "(555) 010-0199",
        "time_zone": "America/New_York",
        "logo_url": f"https://{tenant_id}.example.com/logo.png",
        "currency_code": "USD",
        "language_tag": "en-US",
        "business_type": "Services",
        "business_goals": [],
        "business_primary_color": "#14532d",
        "business_secondary_color": "#f5f5f4",
        "address": ADDRESS,
    }


def account_profile(world: World, person: Person, tenant_id: str) -> Body:
    """Version 1 has a few more fields than the business profile of version 2."""
    address = ADDRESS | {"field": "BILLING", "zip_code": "85001", "zip_four": "0199"}
    return business_profile(world, person, tenant_id) | {"phone_ext": "12", "address": address}


def contacts(_: World, __: Person, tenant_id: str) -> Body:
    """Return made-up contacts, always all of them on one page."""
    found = [
        {
            "id": str(number),
            "given_name": given_name,
            "family_name": family_name,
            "email_addresses": [{"email": f"{given_name}@{tenant_id}.example.com".lower(), "field": "EMAIL1"}],
            "create_time": "2026-01-10T08:00:00Z",
        }
        for number, (given_name, family_name) in enumerate(CONTACTS, start=1001)
    ]
    return {"contacts": found, "next_page_token": ""}


RESOURCES: dict[str, tuple[str, Describe]] = {
    "v1/oauth/connect/userinfo": (endpoints.USERINFO, user_info_v1),
    "v2/oauth/connect/userinfo": (endpoints.USERINFO, user_info_v2),
    "v1/account/profile": (endpoints.PROFILE, account_profile),
    "v2/businessProfile": (endpoints.PROFILE, business_profile),
    "v2/contacts": (endpoints.API, contacts),
    "v1/setting/application/enabled": (endpoints.API, lambda *_: {"value": "yes"}),
    "v2/settings/applications:isEnabled": (endpoints.API, lambda *_: {"isEnabled": True}),
}
