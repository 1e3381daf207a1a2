"""Account Central: tokens without a redirect, and the list where a customer takes access back."""

import re

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import CLIENT_ID, CLIENT_SECRET, Sandbox, new_browser

API_ACCESS = "/app/central/ab123/api-access"
APPLICATIONS = "/app/central/ab123/authorized-applications"
CREDENTIALS = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


def shown(page: str, name: str) -> str | None:
    found = re.search(rf'data-name="{name}">(\w+)<', page)
    return found[1] if found else None


def test_home_lists_the_keap_apps_of_the_login(sandbox: Sandbox):
    with sandbox.signed_in() as ann, sandbox.signed_in("dora.quist@example.com") as dora:
        anns = ann.get(f"{sandbox.url}/app/central/home", timeout=10).text
        doras = dora.get(f"{sandbox.url}/app/central/home", timeout=10).text

    assert API_ACCESS in anns
    assert "/app/central/cd456/api-access" in anns
    assert "This login has no Keap app." in doras


def test_nobody_gets_in_without_signing_in(sandbox: Sandbox):
    with new_browser() as browser:
        answer = browser.get(sandbox.url + APPLICATIONS, allow_redirects=False, timeout=10)

    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/app/signin?next=")


def test_generated_tokens_work_like_any_others(client: Client, sandbox: Sandbox):
    with sandbox.signed_in() as browser:
        page = browser.post(sandbox.url + API_ACCESS, CREDENTIALS, timeout=10).text

    assert client.api(shown(page, "access_token")).json()["tenant_id"] == "ab123"
    assert client.refresh(shown(page, "refresh_token")).status_code == 200


def test_refresh_token_is_hidden_behind_the_switch(sandbox: Sandbox):
    sandbox.switch(show_refresh_token_on_api_access=False)

    with sandbox.signed_in() as browser:
        page = browser.post(sandbox.url + API_ACCESS, CREDENTIALS, timeout=10).text

    assert shown(page, "access_token")
    assert shown(page, "refresh_token") is None


@pytest.mark.parametrize("wrong", [{"client_secret": "x"}, {"client_id": "x"}])
def test_wrong_credentials_get_no_tokens(sandbox: Sandbox, wrong: dict[str, str]):
    with sandbox.signed_in() as browser:
        answer = browser.post(sandbox.url + API_ACCESS, CREDENTIALS | wrong, timeout=10)

    assert answer.status_code == 400
    assert sandbox.ledger()["tokens"] == []


def test_tenant_of_others_is_out_of_reach(sandbox: Sandbox):
    with sandbox.signed_in("ben.ortiz@example.com") as browser:
        answer = browser.post(f"{sandbox.url}/app/central/cd456/api-access", CREDENTIALS, timeout=10)

    assert answer.status_code == 404


def test_removed_app_loses_its_access(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    with sandbox.signed_in() as browser:
        before = browser.get(sandbox.url + APPLICATIONS, timeout=10).text
        form = {"client_id": CLIENT_ID, "person_id": str(pair["person_id"])}
        after = browser.post(sandbox.url + APPLICATIONS, form, timeout=10).text

    assert CLIENT_ID in before
    assert "No app has access" in after
    assert client.refresh(pair["refresh_token"]).status_code == 400
