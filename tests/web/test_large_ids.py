"""An id that no row can have is unknown, on every page and every operation that takes one."""

import re
from itertools import product

import pytest
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key
from tests.api.fixtures import Program
from tests.conftest import ADMIN_PASSWORD
from tests.web.direct import send
from tests.web.fixtures import World

ID = re.compile(r"<(int:\w+|account)>")


def paths_with_ids(app: Flask) -> list[tuple[str, str]]:
    """Return method and address of each route that takes an id."""
    rules = [rule for rule in app.url_map.iter_rules() if ID.search(rule.rule)]
    return [(method, rule.rule) for rule in rules for method in sorted(rule.methods & {"GET", "POST", "PATCH"})]


BODIES = {"PATCH": {"label": "x"}, "rejected": {"fingerprint": "0" * 16}, "PATCH webhook": {"name": "x"}}


@pytest.mark.proves("F102")
def test_id_beyond_the_largest_or_of_another_form_is_not_found_anywhere(app: Flask, world: World):
    with app.app_context():
        program = Program(app, issue_api_key("job", list(Scope), "x").text)
    seen = {}
    world.admin.get("/accounts/1")
    form = {**world.admin.fields("/accounts/1/refresh"), "password": ADMIN_PASSWORD, "reveals": "0"}

    for (method, rule), number in product(paths_with_ids(app), (2**31, 2**63, 10**20, "0", "01", "\uff11")):
        path = ID.sub(str(number), rule)
        if rule.startswith("/api/"):
            body = BODIES.get(f"{method} webhook" if "webhook" in path else method) or BODIES.get(
                path.rpartition("/")[2]
            )
            answer = program.call(method, path, json=body)
        else:
            answer = send(world.admin, method, path, data=form if method == "POST" else None)
        seen[method, path] = answer.status_code

    assert len(seen) > 45
    assert {one: status for one, status in seen.items() if status != 404} == {}


@pytest.mark.proves("F102")
def test_page_before_an_id_that_no_row_can_have_is_shown(world: World):
    paths, numbers = ("/accounts/1", "/audit", "/invitations", "/webhooks/1"), (2**31, 2**63, 10**20)
    addresses = [f"{path}?before={number}" for path in paths for one in numbers for number in (one, -one)]

    shown = {address: world.admin.get(address).status_code for address in addresses}

    assert set(shown.values()) == {200}, shown
