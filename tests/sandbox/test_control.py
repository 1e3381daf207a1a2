"""The control API and page: state, grants, reset, and no buttons for other sites."""

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import ANN, CLIENT_ID, FINN, Sandbox, new_browser


def test_state_names_people_tenants_apps_and_switches(sandbox: Sandbox):
    state = sandbox.state()

    assert [person["person_id"] for person in state["people"]] == list(range(ANN, FINN + 1))
    assert {tenant["tenant_id"] for tenant in state["tenants"]} == {"ab123", "cd456", "ef789", "gh012", "ij345"}
    assert [app["client_id"] for app in state["apps"]] == [CLIENT_ID]
    assert state["switches"] == {
        "family_revocation": False,
        "pkce": False,
        "refresh_wording": "invalid_request",
        "old_refresh_token_works": "never",
        "body_credentials_on_refresh": True,
        "old_access_token_dies_on_refresh": False,
        "second_consent_kills_first": False,
        "rotation": True,
        "redirect_uri_mode": "allow-localhost",
        "revoke_delay_seconds": 0,
        "show_refresh_token_on_api_access": True,
        "userinfo_v2_tenant_id": True,
        "token_delay_seconds": 0,
        "api_delay_seconds": 0,
        "app_disabled": False,
        "issue_expires_in": 86399,
    }


@pytest.mark.parametrize(
    "values",
    [
        {"unheard_of": True},
        {"pkce": 1},
        {"refresh_wording": "nonsense"},
        {"issue_expires_in": "1"},
        {"pkce": True, "x": 1},
    ],
)
def test_impossible_switch_is_refused_and_changes_nothing(sandbox: Sandbox, values: dict[str, object]):
    with pytest.raises(ValueError, match="400"):
        sandbox.switch(**values)
    assert sandbox.state()["switches"]["pkce"] is False


def test_grants_come_in_bulk_for_any_tenant(client: Client, sandbox: Sandbox):
    pairs = sandbox.grant("zz00001", FINN, count=1000)

    assert len({pair["refresh_token"] for pair in pairs}) == 1000
    assert {(pair["tenant_id"], pair["person_id"]) for pair in pairs} == {("zz00001", FINN)}
    assert client.api(pairs[999]["access_token"]).json()["id"] == str(FINN)


@pytest.mark.parametrize("changes", [{"person_id": 1}, {"client_id": "unknown"}, {"tenant_id": "../etc"}])
def test_grant_for_nobody_is_refused(sandbox: Sandbox, changes: dict[str, object]):
    with pytest.raises(ValueError, match="400"):
        sandbox.control("POST", "/grants", {"tenant_id": "ab123", "person_id": ANN} | changes)


def test_reset_forgets_everything(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    as_new = sandbox.state()
    sandbox.add_app("other", "secret")
    sandbox.rename("ij345", "New")
    sandbox.switch(pkce=True)
    sandbox.fault("html_503")
    sandbox.advance(1000)
    browser = sandbox.signed_in()

    sandbox.reset()

    with browser:
        assert browser.get(client.authorization_url(), allow_redirects=False, timeout=10).status_code == 303
    assert sandbox.state() | {"now": ""} == as_new | {"now": ""}
    assert sandbox.ledger()["tokens"] == []
    assert client.refresh(pair["refresh_token"]).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://attacker.example.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)
@pytest.mark.parametrize("path", ["/sandbox/reset", "/sandbox/api/reset", "/app/signin"])
def test_other_sites_cannot_press_buttons(sandbox: Sandbox, pair: dict[str, str], path: str, headers: dict[str, str]):
    with new_browser() as browser:
        assert browser.post(sandbox.url + path, headers=headers, timeout=10).status_code == 403
    assert sandbox.ledger()["tokens"]


def press(sandbox: Sandbox, path: str, **fields: str) -> int:
    with new_browser() as browser:
        headers = {"Origin": sandbox.url, "Sec-Fetch-Site": "same-origin"}
        answer = browser.post(f"{sandbox.url}/sandbox{path}", fields, headers=headers, timeout=10)
        return answer.status_code


def test_control_page_does_what_the_control_api_does(sandbox: Sandbox):
    assert press(sandbox, "/clock", advance_seconds="600") == 200
    form = {"fault": "slow", "endpoint": "api", "schedule": "first", "calls": "2", "parameters": '{"seconds": 1}'}
    assert press(sandbox, "/faults", **form) == 200
    assert press(sandbox, "/tenants", tenant_id="ij345", name="Renamed") == 200

    state = sandbox.state()
    assert state["clock_offset_seconds"] == 600
    assert state["faults"][0] | {"id": 0} == {
        "id": 0, "endpoint": "api", "fault": "slow", "first": 2, "seconds": 1, "calls_seen": 0
    }  # fmt: skip
    assert {"tenant_id": "ij345", "name": "Renamed"} in state["tenants"]

    assert press(sandbox, f"/faults/{state['faults'][0]['id']}/remove") == 200
    assert press(sandbox, "/clock", advance_seconds="600", to="now") == 200
    assert (sandbox.state()["faults"], sandbox.state()["clock_offset_seconds"]) == ([], 0)


def test_switches_form_sends_all_switches(sandbox: Sandbox):
    numbers = {"issue_expires_in": "60", "revoke_delay_seconds": "0", "token_delay_seconds": "0.5"}
    choices = {"refresh_wording": "invalid_grant", "redirect_uri_mode": "allow-localhost", "api_delay_seconds": "0"}
    choices |= {"old_refresh_token_works": "for 300 seconds"}

    assert press(sandbox, "/switches", pkce="on", **numbers, **choices) == 200

    switches = sandbox.state()["switches"]
    assert (switches["pkce"], switches["rotation"], switches["issue_expires_in"]) == (True, False, 60)
    assert (switches["refresh_wording"], switches["token_delay_seconds"]) == ("invalid_grant", 0.5)


def test_bad_form_is_explained(sandbox: Sandbox):
    with new_browser() as browser:
        answer = browser.post(
            f"{sandbox.url}/sandbox/faults", {"fault": "slow", "endpoint": "api", "parameters": "{"}, timeout=10
        )

    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


@pytest.mark.parametrize("body", [{}, {"advance_seconds": "1"}, {"advance_seconds": True}, {"offset_seconds": 1e300}])
def test_impossible_time_is_refused(sandbox: Sandbox, body: dict[str, object]):
    with pytest.raises(ValueError, match="400"):
        sandbox.control("POST", "/clock", body)
    assert sandbox.state()["clock_offset_seconds"] == 0


def test_unknown_address_is_json_for_programs_and_a_page_for_people(sandbox: Sandbox):
    with new_browser() as browser:
        program = browser.get(f"{sandbox.url}/sandbox/api/nothing", timeout=10)
        person = browser.get(f"{sandbox.url}/nothing", timeout=10)

    assert (program.status_code, set(program.json())) == (404, {"error", "error_description"})
    assert (person.status_code, person.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "The sandbox has no such page." in person.text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(90061, "1 day 1 h 1 min 1 s ahead of"), (45 * 86400, "45 days ahead of"), (-600, "10 min behind")],
)
def test_the_control_page_says_in_words_how_far_its_clock_is_off(sandbox: Sandbox, seconds: int, words: str):
    sandbox.control("POST", "/clock", {"offset_seconds": seconds})

    with new_browser() as browser:
        page = browser.get(f"{sandbox.url}/sandbox", timeout=10).text

    assert f"{words} the real time." in page


def test_sandbox_is_healthy(sandbox: Sandbox):
    with new_browser() as browser:
        assert browser.get(f"{sandbox.url}/sandbox/healthz", timeout=10).status_code == 200
