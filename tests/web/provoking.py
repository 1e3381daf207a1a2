"""How to get each error out of the app."""

from collections.abc import Callable

import requests
from flask import Flask
from sqlalchemy.exc import OperationalError

from tests.conftest import ADMIN_EMAIL
from tests.support.visitor import Visitor
from tests.web.direct import send
from tests.web.fixtures import World
from tests.web.inventory import address

TEN_MEGABYTES = 10 * 1024 * 1024


def press(visitor: Visitor, path: str, **fields: str) -> requests.Response:
    """Post with the right token."""
    visitor.get("/")
    return send(visitor, "POST", path, data={"csrf_token": visitor.fields("/connect")["csrf_token"], **fields})


def fail_in(app: Flask, endpoint: str, error: Exception) -> None:
    """Let a view fail."""
    audience = app.view_functions[endpoint].audience

    def view(**_values: object) -> None:
        raise error

    view.audience = audience
    app.view_functions[endpoint] = view


def guess_until_throttled(visitor: Visitor) -> requests.Response:
    """Try wrong passwords until the answer is no longer 401."""
    for _ in range(100):
        answer = press(visitor, "/signin", email=ADMIN_EMAIL, password="a wrong password")
        if answer.status_code != 401:
            return answer
    raise AssertionError("100 guesses were checked")


def refused(world: World) -> dict[int, Callable[[], requests.Response]]:
    """Return a way to get each error."""
    stranger = world.anonymous
    return {
        400: lambda: press(world.customer, address("connect.confirm", ref=world.held_ref), choice="neither"),
        401: lambda: press(stranger, "/signin", email=ADMIN_EMAIL, password="a wrong password"),
        403: lambda: send(stranger, "POST", "/connect"),
        404: lambda: send(stranger, "GET", "/nothing-here"),
        405: lambda: send(stranger, "DELETE", "/accounts"),
        413: lambda: send(stranger, "POST", "/signin", data=b"x" * TEN_MEGABYTES),
        429: lambda: guess_until_throttled(stranger),
        500: lambda: fail_in(world.app, "connect.index", ZeroDivisionError()) or send(stranger, "GET", "/"),
        503: lambda: (
            fail_in(world.app, "connect.index", OperationalError("SELECT 1", {}, Exception()))
            or send(stranger, "GET", "/")
        ),
    }
