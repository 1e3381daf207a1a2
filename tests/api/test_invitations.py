"""Invitations over the API: a link is shown once, in pages, and what cannot be done is refused in words."""

import pytest

from tests.api.fixtures import Program
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
PATH = "/api/v1/invitations"


@pytest.mark.proves("R15")
def test_a_link_is_shown_when_it_is_made_and_never_again(program: Program):
    made = program.post(PATH, {"label": "Acme", "external_id": "crm:7", "valid_days": 30})
    again = program.post(f"{PATH}/1/resend")
    shown = program.get(f"{PATH}/1").json()
    (listed,) = program.get(PATH).json()["invitations"]

    assert (made.status_code, made.json()["state"], made.json()["waiting"]) == (201, "sent", None)
    assert made.json()["url"].startswith(f"{program.base_url}/i/")
    assert made.json()["url"] != again.json()["url"]
    assert shown == listed
    assert "url" not in shown
    assert (shown["label"], shown["external_id"], shown["account_id"]) == ("Acme", "crm:7", None)


def test_they_come_in_pages_newest_first_and_refusals_have_their_words(program: Program):
    for number in range(3):
        program.post(PATH, {"external_id": f"crm:{number}"})
    withdrawn = program.call("DELETE", f"{PATH}/2")

    first = program.get(f"{PATH}?limit=2").json()
    second = program.get(f"{PATH}?limit=2&cursor={first['next_cursor']}").json()

    assert withdrawn.json()["state"] == "withdrawn"
    assert [one["id"] for one in first["invitations"] + second["invitations"]] == [3, 2, 1]
    assert second["next_cursor"] is None
    assert [one["id"] for one in program.get(f"{PATH}?state=sent").json()["invitations"]] == [3, 1]
    assert [one["id"] for one in program.get(f"{PATH}?external_id=crm:0").json()["invitations"]] == [1]
    assert program.post(f"{PATH}/2/resend").json()["error"] == "invitation_closed"
    assert program.get(f"{PATH}/9").json()["error"] == "not_found"
    unfit = program.post(PATH, {"return_url": "https://evil.example/"})
    assert (unfit.status_code, unfit.json()["error"]) == (409, "invitation_refused")
    assert "RETURN_ORIGINS" in unfit.json()["error_description"]
