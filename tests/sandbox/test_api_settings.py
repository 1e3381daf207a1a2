"""API Settings: keys without expiry that a person makes and deletes, accepted by the REST API in two headers."""

import re

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import ANN, Sandbox, new_browser

BEN = "ben.ortiz@example.com"


def user_info(sandbox: Sandbox, headers: dict[str, str]):
    with new_browser() as browser:
        return browser.get(f"{sandbox.url}/crm/rest/v2/oauth/connect/userinfo", headers=headers, timeout=10)


def delete_on(page: str) -> str:
    """Where the only Delete button of a page leads."""
    (action,) = re.findall(r'action="(/[^"]+/delete)"', page)
    return action


@pytest.mark.parametrize("kind", ["personal_access_token", "service_account_key"])
def test_key_speaks_for_its_maker_and_its_keap_app(client: Client, sandbox: Sandbox, kind: str):
    key = sandbox.make_key(kind, tenant="cd456")

    answer = client.api(key)

    assert key.startswith("KeapAK-")
    assert answer.json()["id"] == str(ANN)
    assert answer.headers["x-keap-tenant-id"] == "cd456.infusionsoft.com"
    assert answer.headers["x-keap-product-throttle-limit"] == "240"


def test_key_is_accepted_in_keaps_own_header_and_an_access_token_is_not(sandbox: Sandbox):
    key, access_token = sandbox.make_key(), sandbox.grant()[0]["access_token"]

    assert user_info(sandbox, {"X-Keap-API-Key": key}).status_code == 200
    assert user_info(sandbox, {"X-Keap-API-Key": access_token}).status_code == 401


def test_key_does_not_expire_and_ends_when_it_is_deleted(client: Client, sandbox: Sandbox):
    key = sandbox.make_key()
    sandbox.advance(400 * 86400)
    before = client.api(key).status_code
    with sandbox.signed_in() as ann:
        page = ann.get(f"{sandbox.url}/app/central/ab123/api-settings", timeout=10).text
        after_delete = ann.post(sandbox.url + delete_on(page), timeout=10).text

    assert (before, client.api(key).status_code) == (200, 401)
    assert key not in page
    assert f"…{key[-4:]}" in page
    assert key[-4:] not in after_delete


def test_user_who_is_no_admin_makes_no_service_account_key_and_deletes_no_key_of_others(
    client: Client, sandbox: Sandbox
):
    anns, settings = sandbox.make_key(), f"{sandbox.url}/app/central/ab123/api-settings"
    with sandbox.signed_in() as ann, sandbox.signed_in(BEN) as ben:
        delete = delete_on(ann.get(settings, timeout=10).text)
        made = ben.post(settings, {"kind": "service_account_key"}, timeout=10)
        deleted = ben.post(sandbox.url + delete, timeout=10)

    assert (made.status_code, deleted.status_code) == (403, 404)
    assert client.api(anns).status_code == 200
