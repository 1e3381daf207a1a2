"""The control API, JSON in and out: tests move the clock, set faults and switches, and read the ledger."""

import dataclasses
import re
from typing import TypeVar

from flask import Blueprint, abort, request

from keap_connect.sandbox.apps import DEFAULT_APP, App
from keap_connect.sandbox.clock import iso
from keap_connect.sandbox.endpoints import ENDPOINTS
from keap_connect.sandbox.people import PEOPLE, TENANT_NAMES, find_person
from keap_connect.sandbox.world import World, current_world

control_api = Blueprint("control_api", __name__, url_prefix="/sandbox/api")

Body = dict[str, object]
NO_CONTENT = ("", 204)
T = TypeVar("T")


@control_api.errorhandler(ValueError)
def refuse(error: ValueError) -> tuple[Body, int]:
    return {"error": "bad_request", "error_description": str(error)}, 400


def json_body() -> Body:
    body = request.get_json()
    if not isinstance(body, dict):
        raise ValueError("Send a JSON object.")
    return body


def field(body: Body, name: str, kind: type[T], default: T | None = None) -> T:
    """One field of the right type; without a default it must be there."""
    value = body.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is missing or has the wrong type.")
    return value


def number(body: Body, name: str) -> float:
    return float(field(body, name, int)) if isinstance(body.get(name), int) else field(body, name, float)


@control_api.get("/state")
def state() -> Body:
    world = current_world()
    return {
        **clock_body(world),
        "switches": dataclasses.asdict(world.switches.positions),
        "faults": [fault.description() for fault in world.faults.active()],
        "people": [
            {"person_id": person.person_id, "name": person.name, "email": person.email}
            | {"is_admin": person.is_admin, "tenant_ids": person.tenant_ids}
            for person in PEOPLE
        ],
        "tenants": [{"tenant_id": one, "name": name} for one, name in world.tenants.names().items()],
        "apps": [{"client_id": app.client_id, "redirect_uris": app.redirect_uris} for app in world.apps.all()],
    }


def clock_body(world: World) -> Body:
    return {"now": iso(world.clock.now()), "clock_offset_seconds": world.clock.offset_seconds}


@control_api.post("/reset")
def reset() -> tuple[str, int]:
    current_world().reset()
    return NO_CONTENT


@control_api.post("/clock")
def move_clock() -> Body:
    world, body = current_world(), json_body()
    if "offset_seconds" in body:
        world.clock.move_to(number(body, "offset_seconds"))
    else:
        world.clock.move_to(world.clock.offset_seconds + number(body, "advance_seconds"))
    return clock_body(world)


@control_api.patch("/switches")
def set_switches() -> Body:
    world = current_world()
    world.switches.set(json_body())
    return dataclasses.asdict(world.switches.positions)


@control_api.get("/faults")
def list_faults() -> list[Body]:
    return [fault.description() for fault in current_world().faults.active()]


@control_api.post("/faults")
def set_fault() -> tuple[Body, int]:
    body = json_body()
    endpoint, name = field(body, "endpoint", str), field(body, "fault", str)
    options = {key: value for key, value in body.items() if key not in ("endpoint", "fault")}
    return {"id": current_world().faults.set(endpoint, name, options)}, 201


@control_api.delete("/faults")
def clear_faults() -> tuple[str, int]:
    current_world().faults.clear()
    return NO_CONTENT


@control_api.delete("/faults/<int:fault_id>")
def remove_fault(fault_id: int) -> tuple[str, int]:
    if not current_world().faults.remove(fault_id):
        abort(404, "There is no fault with this number.")
    return NO_CONTENT


@control_api.post("/hold")
def hold() -> tuple[str, int]:
    body = json_body()
    endpoint, where = field(body, "endpoint", str), field(body, "where", str, "before")
    if endpoint not in ENDPOINTS or where not in ("before", "after"):
        raise ValueError(f"endpoint is one of {', '.join(ENDPOINTS)}; where is before or after.")
    current_world().holds.hold(endpoint, where)
    return NO_CONTENT


@control_api.get("/held")
def held() -> Body:
    wanted = request.args.get("wait_for", 0, type=int)
    endpoints = current_world().holds.waiting(wanted, request.args.get("timeout", 10.0, type=float))
    return {"waiting": sum(endpoints.values()), "endpoints": endpoints}


@control_api.post("/release")
def release() -> tuple[str, int]:
    current_world().holds.release()
    return NO_CONTENT


@control_api.get("/ledger")
def ledger() -> Body:
    world, tenant_id = current_world(), request.args.get("tenant_id")
    return {
        "tokens": world.ledger.tokens(tenant_id),
        "presentations": world.ledger.presentations(tenant_id),
        "totals": world.ledger.totals(tenant_id),
    }


@control_api.delete("/ledger")
def clear_ledger() -> tuple[str, int]:
    current_world().ledger.clear()
    return NO_CONTENT


@control_api.post("/grants")
def issue_grants() -> tuple[Body, int]:
    """Issue pairs without clicks. Tenants that are not in the list are made up on the spot."""
    world, body = current_world(), json_body()
    person = find_person(body.get("person_id"))
    tenant_id = field(body, "tenant_id", str)
    client_id = field(body, "client_id", str, DEFAULT_APP.client_id)
    if person is None or world.apps.find(client_id) is None or not re.fullmatch(r"[a-z]+\d+", tenant_id):
        raise ValueError("person_id, client_id or tenant_id (letters, then digits) is not known here.")
    grants = []
    with world.store.transaction():
        for _ in range(field(body, "count", int, 1)):
            grant_id = world.grants.open(client_id, person.person_id, tenant_id)
            pair = world.grants.issue_pair(grant_id, tenant_id)
            grants.append(pair.token_response() | {"tenant_id": tenant_id, "person_id": person.person_id})
    return {"grants": grants}, 201


@control_api.post("/withdraw")
def withdraw() -> Body:
    body = json_body()
    person_id = field(body, "person_id", int) if body.get("person_id") is not None else None
    client_id = field(body, "client_id", str) if body.get("client_id") is not None else None
    return {"withdrawn": current_world().grants.withdraw(field(body, "tenant_id", str), person_id, client_id)}


@control_api.patch("/tenants/<tenant_id>")
def rename_tenant(tenant_id: str) -> Body:
    if tenant_id not in TENANT_NAMES:
        abort(404, "There is no such Keap app.")
    name = field(json_body(), "name", str)
    current_world().tenants.rename(tenant_id, name)
    return {"tenant_id": tenant_id, "name": name}


@control_api.post("/apps")
def add_app() -> tuple[Body, int]:
    body = json_body()
    redirect_uris = field(body, "redirect_uris", list, [])
    app = App(field(body, "client_id", str), field(body, "client_secret", str), tuple(map(str, redirect_uris)))
    current_world().apps.add(app)
    return {"client_id": app.client_id, "redirect_uris": app.redirect_uris}, 201
