"""The REST API: identity, business names, Keap's headers, and the gateway that answers first."""

import pytest

from tests.sandbox.client import Client, error_code
from tests.support.sandbox import ANN, BEN, CLEO, FINN, Sandbox, new_browser


def test_user_info_v1(client: Client, pair: dict[str, str]):
    assert client.api(pair["access_token"], "/v1/oauth/connect/userinfo").json() == {
        "sub": "1",
        "email": "ann.lee@example.com",
        "given_name": "Ann",
        "family_name": "Lee",
        "middle_name": None,
        "preferred_name": None,
        "global_user_id": ANN,
        "infusionsoft_id": "ann.lee@example.com",
        "is_admin": True,
    }


def test_user_info_v2_names_the_tenant_unless_switched(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    body = client.api(pair["access_token"]).json()
    sandbox.switch(userinfo_v2_tenant_id=False)

    assert body == client.api(pair["access_token"]).json() | {"tenant_id": "ab123"}
    assert (body["id"], body["keap_id"]) == (str(ANN), "ann.lee@example.com")
    assert "middle_name" not in body


def test_sub_collides_between_tenants_but_not_inside_one(client: Client, sandbox: Sandbox):
    owners = [("ab123", ANN), ("cd456", ANN), ("ef789", CLEO), ("ab123", BEN)]

    users = [client.api(sandbox.grant(tenant, person)[0]["access_token"]).json() for tenant, person in owners]

    assert [user["sub"] for user in users] == ["1", "1", "1", "2"]
    assert [user["is_admin"] for user in users] == [True, True, True, False]


@pytest.mark.parametrize("path", ["/v1/account/profile", "/v2/businessProfile"])
def test_business_name_changes_when_the_customer_renames(client: Client, sandbox: Sandbox, path: str):
    access_token = sandbox.grant("ij345", FINN)[0]["access_token"]
    before = client.api(access_token, path).json()["name"]

    sandbox.rename("ij345", "Finn & Daughters")

    assert before == "Finn's Old Name"
    assert client.api(access_token, path).json()["name"] == "Finn & Daughters"


@pytest.mark.parametrize(
    "path", ["/v2/contacts", "/v2/businessProfile", "/v2/oauth/connect/userinfo", "/v1/account/profile"]
)
def test_no_value_is_null_where_keaps_openapi_says_string(client: Client, pair: dict[str, str], path: str):
    assert "null" not in client.api(pair["access_token"], path).text


def test_a_first_call_finds_contacts(client: Client, pair: dict[str, str]):
    found = client.api(pair["access_token"], "/v2/contacts").json()["contacts"]

    assert [(one["id"], one["given_name"]) for one in found] == [("1001", "Grace"), ("1002", "Hugo"), ("1003", "Iris")]
    assert found[0]["email_addresses"] == [{"email": "grace@ab123.example.com", "field": "EMAIL1"}]


def test_application_is_enabled(client: Client, pair: dict[str, str]):
    assert client.api(pair["access_token"], "/v1/setting/application/enabled").json() == {"value": "yes"}


def test_every_answer_carries_keaps_headers(client: Client, pair: dict[str, str]):
    headers = client.api(pair["access_token"]).headers

    assert headers["x-keap-tenant-id"] == "ab123.infusionsoft.com"
    assert headers["x-keap-product-quota-limit"] == "150000"
    assert headers["x-keap-tenant-throttle-limit"] == "10000|250000"
    assert int(headers["x-keap-product-quota-expiry-time"]) % 86_400_000 == 0
    assert int(headers["x-keap-product-quota-used"]) >= 1


def test_refusals_carry_the_headers_blank(client: Client, pair: dict[str, str]):
    good, bad = client.api(pair["access_token"]).headers, client.api(None).headers

    names = {name.lower() for name in good if name.lower().startswith("x-keap-")}
    assert names == {name.lower() for name in bad if name.lower().startswith("x-keap-")}
    assert {bad[name] for name in names} == {""}


@pytest.mark.parametrize("authorization", [None, "", "Basic abc", "Bearer", "token"])
def test_missing_token(sandbox: Sandbox, authorization: str | None):
    headers = {} if authorization is None else {"Authorization": authorization}

    with new_browser() as browser:
        answer = browser.get(f"{sandbox.url}/crm/rest/v1/account/profile", headers=headers, timeout=10)

    assert answer.status_code == 401
    assert answer.json() == {
        "fault": {"faultstring": "Invalid access token", "detail": {"errorcode": "oauth.v2.InvalidAccessToken"}}
    }


def test_garbage_and_refresh_tokens_are_no_access_tokens(client: Client, pair: dict[str, str]):
    for wrong in ("garbage", pair["refresh_token"]):
        assert error_code(client.api(wrong)) == "keymanagement.service.invalid_access_token"


def test_gateway_answers_before_routing(client: Client, pair: dict[str, str]):
    assert client.api(None, "/v1/no/such/thing").status_code == 401
    assert client.api(pair["access_token"], "/v1/no/such/thing").status_code == 404


def test_withdrawn_access_is_not_approved(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    assert sandbox.withdraw("ab123") == 1

    assert error_code(client.api(pair["access_token"])) == "keymanagement.service.access_token_not_approved"
    assert client.refresh(pair["refresh_token"]).status_code == 400


def test_withdrawn_access_works_on_for_the_delay(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.switch(revoke_delay_seconds=180)
    sandbox.withdraw("ab123")
    assert client.api(pair["access_token"]).status_code == 200

    sandbox.advance(180)

    assert client.api(pair["access_token"]).status_code == 401


def test_withdraw_reaches_one_person_or_one_app(client: Client, sandbox: Sandbox):
    sandbox.add_app("other", "othersecret")
    ann, ben = sandbox.grant("ab123", ANN)[0], sandbox.grant("ab123", BEN)[0]
    other = sandbox.grant("ab123", ANN, client_id="other")[0]

    assert sandbox.withdraw("ab123", person_id=BEN) == 1
    assert sandbox.withdraw("ab123", client_id="other") == 1

    states = [client.api(tokens["access_token"]).status_code for tokens in (ann, ben, other)]
    assert states == [200, 401, 401]


def test_disabled_app_is_not_approved(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.switch(app_disabled=True)

    assert error_code(client.api(pair["access_token"])) == "keymanagement.service.invalid_client-client_id_not_approved"
