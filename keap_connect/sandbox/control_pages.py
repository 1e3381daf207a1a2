"""The pages for people: what the sandbox is, its control page, and its ledger to look at."""

import dataclasses
import json

from flask import Blueprint, Response, abort, render_template, request

from keap_connect.sandbox.answers import see_other
from keap_connect.sandbox.apps import DEFAULT_APP
from keap_connect.sandbox.endpoints import ENDPOINTS
from keap_connect.sandbox.fault_library import FAULTS
from keap_connect.sandbox.people import PEOPLE, TENANT_NAMES
from keap_connect.sandbox.switches import Switches
from keap_connect.sandbox.world import current_world

control_pages = Blueprint("control", __name__)

FAMILIES = {
    "statuses": "Error answers",
    "bodies": "Wrong answers",
    "network": "Trouble on the line",
    "callbacks": "The way back to the client",
}
NEWEST_ROWS = 100
DONE = {
    "clock": "The clock has been moved.",
    "fault": "The fault is set.",
    "fault-removed": "The fault is removed.",
    "switches": "The switches are set.",
    "renamed": "The Keap app has its new name.",
    "withdrawn": "Access has been withdrawn.",
    "reset": "Everything is as new.",
}


@control_pages.errorhandler(ValueError)
def refuse(error: ValueError) -> tuple[str, int]:
    return render_template("message.html", title="That did not work", sentence=str(error)), 400


def done(what: str) -> Response:
    return see_other(f"/sandbox?done={what}")


@control_pages.get("/")
def home() -> str:
    return render_template("home.html", app=DEFAULT_APP, people=PEOPLE, tenants=current_world().tenants.names())


@control_pages.get("/sandbox/healthz")
def health() -> tuple[str, int]:
    return "ok\n", 200


@control_pages.get("/sandbox")
def control() -> str:
    world = current_world()
    return render_template(
        "control.html",
        done=DONE.get(request.args.get("done", "")),
        now=world.clock.now(),
        offset_seconds=world.clock.offset_seconds,
        active_faults=[(fault, FAULTS[fault.name]) for fault in world.faults.active()],
        faults=FAULTS.values(),
        families=FAMILIES,
        endpoints=ENDPOINTS,
        switches=[(one, getattr(world.switches.positions, one.name)) for one in dataclasses.fields(Switches)],
        people=PEOPLE,
        tenants=world.tenants.names(),
    )


@control_pages.get("/sandbox/ledger")
def ledger() -> str:
    read = current_world().ledger
    return render_template(
        "ledger.html",
        totals=read.totals(),
        tokens=read.tokens(newest=NEWEST_ROWS)[::-1],
        presentations=read.presentations(newest=NEWEST_ROWS)[::-1],
        newest_rows=NEWEST_ROWS,
    )


@control_pages.post("/sandbox/clock")
def move_clock() -> Response:
    world = current_world()
    offset = 0.0 if request.form.get("to") == "now" else world.clock.offset_seconds + number("advance_seconds")
    world.clock.move_to(offset)
    return done("clock")


@control_pages.post("/sandbox/faults")
def set_fault() -> Response:
    try:
        options = dict(json.loads(request.form.get("parameters") or "{}"))
    except (ValueError, TypeError):
        raise ValueError('Write the parameters as a JSON object, such as {"seconds": 10}.') from None
    if (schedule := request.form.get("schedule", "")) in ("first", "every"):
        options[schedule] = int(number("calls"))
    current_world().faults.set(request.form.get("endpoint", ""), request.form.get("fault", ""), options)
    return done("fault")


@control_pages.post("/sandbox/faults/<int:fault_id>/remove")
def remove_fault(fault_id: int) -> Response:
    current_world().faults.remove(fault_id)
    return done("fault-removed")


@control_pages.post("/sandbox/switches")
def set_switches() -> Response:
    current_world().switches.set({one.name: from_form(one) for one in dataclasses.fields(Switches)})
    return done("switches")


def from_form(one: "dataclasses.Field[object]") -> object:
    """A switch's value as the form sends it: an unticked box sends nothing."""
    if isinstance(one.default, bool):
        return one.name in request.form
    return request.form.get(one.name) if one.metadata["choices"] else number(one.name)


@control_pages.post("/sandbox/tenants")
def rename_tenant() -> Response:
    tenant_id, name = request.form.get("tenant_id", ""), request.form.get("name", "").strip()
    if tenant_id not in TENANT_NAMES or not name:
        abort(400, "Pick a Keap app and write its new name.")
    current_world().tenants.rename(tenant_id, name)
    return done("renamed")


@control_pages.post("/sandbox/withdraw")
def withdraw() -> Response:
    current_world().grants.withdraw(request.form.get("tenant_id", ""))
    return done("withdrawn")


@control_pages.post("/sandbox/reset")
def reset() -> Response:
    current_world().reset()
    return done("reset")


def number(name: str) -> float:
    try:
        return float(request.form.get(name, ""))
    except ValueError:
        raise ValueError(f"{name.replace('_', ' ')} is a number.") from None
