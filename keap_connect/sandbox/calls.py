"""What happens to every call that tests can disturb: ledger, hold, delay, faults, act, hold, answer."""

import time
from dataclasses import dataclass, replace
from functools import partial

from flask import Response, request

from keap_connect.sandbox import endpoints
from keap_connect.sandbox.fault_library import FAULTS, Call
from keap_connect.sandbox.raw_answers import RawAnswer
from keap_connect.sandbox.world import World


@dataclass(frozen=True)
class Presented:
    """The secret that came with a call; `secret` is empty when there was none."""

    kind: str
    secret: str


def answer(world: World, call: Call, presented: Presented | None = None) -> Response:
    """Answer one call, disturbed by whatever is set for its endpoint, and note it in the ledger."""
    if presented is None:
        return disturbed(world, call)[0]
    presentation = world.ledger.begin(presented.kind, presented.secret, request.path)
    outcome, status = "failed", None
    try:
        response, faults = disturbed(world, call)
        status = None if isinstance(response, RawAnswer) else response.status_code
        outcome = f"fault:{'+'.join(faults)}" if faults else ordinary_outcome(call.endpoint, response)
        return response
    finally:
        world.ledger.end(presentation, outcome, status)


def disturbed(world: World, call: Call) -> tuple[Response, list[str]]:
    """Act on a call; returns the answer and the names of the faults that had a hand in it."""
    world.holds.pass_through(call.endpoint, "before")
    time.sleep(delay_seconds(world, call.endpoint))
    faults = world.faults.due(call.endpoint)
    for fault in faults:
        call = replace(call, act=partial(FAULTS[fault.name].play, call, **fault.parameters))
    response = call.act()
    world.holds.pass_through(call.endpoint, "after")
    return response, [fault.name for fault in faults]


def delay_seconds(world: World, endpoint: str) -> float:
    if endpoints.matches(endpoints.TOKEN, endpoint):
        return world.switches.positions.token_delay_seconds
    if endpoints.matches(endpoints.API, endpoint):
        return world.switches.positions.api_delay_seconds
    return 0.0


def ordinary_outcome(endpoint: str, response: Response) -> str:
    if response.status_code >= 400:
        return "refused"
    return "granted" if endpoints.matches(endpoints.TOKEN, endpoint) else "ok"
