"""Who a token speaks for: asked in two versions, checked against each other, and never worth losing a grant."""

import json
from dataclasses import astuple, replace

import pytest

from keap_connect.errors import CredentialRefused, TemporarilyUnavailable, TenantConflict
from keap_connect.keap.user_info import Identity, ask_identity, get_identity
from keap_connect.settings import KeapSettings
from tests.keap.raw_server import RawServer, http
from tests.support.sandbox import ANN, BEN, CLIENT_ID, CLIENT_SECRET, EVE

USER_V2, USER_V1 = "/v2/oauth/connect/userinfo", "/v1/oauth/connect/userinfo"
COMPANY_V2, COMPANY_V1 = "/v2/businessProfile", "/v1/account/profile"
ANN_V2 = {
    "id": str(ANN),
    "sub": "1",
    "email": "ann.lee@example.com",
    "given_name": "Ann",
    "family_name": "Lee",
    "tenant_id": "ab123",
}
ANN_V1 = {"global_user_id": ANN, "sub": "1", "email": "ann.lee@example.com", "given_name": "Ann", "family_name": "Lee"}
ACME = {"name": "Acme Plumbing"}
TENANT_HEADER = "x-keap-tenant-id: ab123.infusionsoft.com"
ALL = Identity("ab123", str(ANN), "Ann Lee", "ann.lee@example.com", "Acme Plumbing")


def keap_at(url):
    return KeapSettings(
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        authorize_url=f"{url}/app/oauth/authorize",
        token_url=f"{url}/token",
        api_url=f"{url}/crm/rest",
        redirect_uri="http://localhost:5000/callback",
    )


class API:
    """Keap's REST API as a table of answers; what is not in it is a 404 in HTML."""

    def __init__(self, server):
        self._server = server
        self.answers = {}
        self.keap = keap_at(server.url)
        server.script = self._answer

    def answer(self, path, body, *headers, status="200 OK"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = http(content, *headers, status=status)

    @property
    def asked(self):
        return [request.split()[1].decode().removeprefix("/crm/rest") for request in self._server.requests]

    def _answer(self, connection):
        if not connection.read_request():
            return
        path = connection.request.split()[1].decode().removeprefix("/crm/rest")
        connection.send(self.answers.get(path, http(b"<html>Not Found</html>", status="404 Not Found")))


@pytest.fixture
def api():
    with RawServer() as server:
        yield API(server)


def test_user_info_and_business_profile_tell_it_all(api):
    api.answer(USER_V2, ANN_V2, TENANT_HEADER)
    api.answer(COMPANY_V2, ACME, TENANT_HEADER)

    assert ask_identity(api.keap, "the-access-token", "ab123") == ALL
    assert api.asked == [USER_V2, COMPANY_V2]


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "429 Slow", "500 Oops"])
def test_version_1_is_asked_when_version_2_fails(api, status):
    api.answer(USER_V2, ANN_V2 | {"id": "999"}, status=status)
    api.answer(USER_V1, ANN_V1)
    api.answer(COMPANY_V2, {"name": "Wrong"}, status=status)
    api.answer(COMPANY_V1, ACME)

    assert ask_identity(api.keap, "the-access-token", "ab123") == ALL


def test_both_versions_name_the_same_person_alike(sandbox):
    access_token = sandbox.grant()[0]["access_token"]
    second = ask_identity(keap_at(sandbox.url), access_token, "ab123")
    sandbox.fault("html_503", "userinfo", calls=[1])

    first = ask_identity(keap_at(sandbox.url), access_token, "ab123")

    assert first == second == ALL


def test_a_person_is_told_by_the_global_id_never_by_sub(sandbox):
    ann, ben = sandbox.grant(person_id=ANN)[0], sandbox.grant(person_id=BEN)[0]
    keap = keap_at(sandbox.url)

    assert ask_identity(keap, ann["access_token"], None).keap_user_id == str(ANN)
    assert ask_identity(keap, ben["access_token"], None).keap_user_id == str(BEN)


@pytest.mark.parametrize(
    "fault", ["html_503", "ok_html", "ok_empty", "ok_truncated", "ok_list", "reset_after", "invalid", "redirect"]
)
def test_the_tenant_of_the_grant_stays_when_every_question_fails(sandbox, fault):
    name = "unauthorized_401_plain" if fault == "invalid" else fault
    sandbox.fault(name, "api")

    found = ask_identity(keap_at(sandbox.url), sandbox.grant()[0]["access_token"], "ab123")

    assert found == Identity(tenant_id="ab123")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"id": 1' + b"0" * 5000 + b"}",
        {},
        {"id": None, "email": None, "given_name": None, "family_name": None},
        {"id": {"value": 1}, "email": ["a"], "given_name": 5, "family_name": {}, "tenant_id": 7},
        {"id": True, "email": False},
        {"id": "", "given_name": "", "family_name": "  ", "email": "\n"},
        {"id": "  "},
        {"id": 0},
        {"id": -1.5},
        {"sub": "1"},
    ],
    ids=lambda body: str(body)[:50],
)
def test_odd_json_tells_nothing_and_costs_nothing(api, body):
    for path in (USER_V2, USER_V1, COMPANY_V2, COMPANY_V1):
        api.answer(path, body)

    assert ask_identity(api.keap, "the-access-token", "ab123") == Identity(tenant_id="ab123")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('"><img src=x onerror=alert(1)>', '"><img src=x onerror=alert(1)>'),
        ("=HYPERLINK(1)", "=HYPERLINK(1)"),
        ("two\r\nSet-Cookie: lines\x00\x1b[31m", "two Set-Cookie: lines [31m"),
        ("\u202egnp.exe", "gnp.exe"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("漢字 é 🔑", "漢字 é 🔑"),
        ("x" * 100_000, "x" * 299 + "…"),
    ],
)
def test_hostile_names_become_one_short_line_of_text(api, name, shown):
    api.answer(USER_V2, ANN_V2 | {"given_name": name, "family_name": None, "email": name})
    api.answer(COMPANY_V2, {"name": name})

    found = ask_identity(api.keap, "the-access-token", None)

    assert (found.person_name, found.person_email, found.business_name) == (shown, shown, shown)


def test_a_tenant_with_a_hostile_name_is_connected_under_that_name(sandbox):
    found = ask_identity(keap_at(sandbox.url), sandbox.grant("gh012", EVE)[0]["access_token"], "gh012")

    assert found.business_name == '"><img src=x onerror=alert(1)>'


@pytest.mark.parametrize("header", ["ab123", "AB123", "ab123.infusionsoft.com", "AB123.InfusionSoft.com", " ab123 "])
@pytest.mark.parametrize("granted_tenant_id", ["ab123", None])
def test_the_tenant_header_is_understood_in_every_form(api, header, granted_tenant_id):
    user = {name: ANN_V2[name] for name in ANN_V2 if name != "tenant_id"}
    api.answer(USER_V2, user, f"x-keap-tenant-id: {header}")
    api.answer(COMPANY_V2, ACME, f"X-Keap-Tenant-Id: {header}")

    assert ask_identity(api.keap, "the-access-token", granted_tenant_id) == ALL


@pytest.mark.parametrize("header", ["", "nowhere.evil.example", "<script>", "a" * 500])
def test_a_header_that_is_no_tenant_is_ignored(api, header):
    api.answer(USER_V2, ANN_V2, f"x-keap-tenant-id: {header}")
    api.answer(COMPANY_V2, ACME)

    assert ask_identity(api.keap, "the-access-token", "ab123") == ALL


@pytest.mark.parametrize("told_by", ["user header", "user body", "company header"])
@pytest.mark.parametrize("granted_tenant_id", ["ab123", None])
def test_two_tenants_for_one_token_are_a_conflict(api, told_by, granted_tenant_id):
    other = "x-keap-tenant-id: zz999.infusionsoft.com"
    api.answer(USER_V2, ANN_V2 | {"tenant_id": "zz999" if told_by == "user body" else None},
               other if told_by == "user header" else TENANT_HEADER)  # fmt: skip
    api.answer(COMPANY_V2, ACME, other if told_by == "company header" else TENANT_HEADER)

    with pytest.raises(TenantConflict, match="ab123 and zz999"):
        ask_identity(api.keap, "the-access-token", granted_tenant_id)


def test_the_tenant_of_a_refused_answer_counts_for_nothing(api):
    api.answer(USER_V2, ANN_V2, "x-keap-tenant-id: zz999.infusionsoft.com", status="401 Unauthorized")
    api.answer(USER_V1, ANN_V1, TENANT_HEADER)
    api.answer(COMPANY_V2, ACME)

    assert ask_identity(api.keap, "the-access-token", "ab123") == ALL


@pytest.mark.parametrize("fault", ["missing_tenant_header", "missing_tenant_id"])
def test_one_of_the_two_signs_of_the_tenant_is_enough(sandbox, fault):
    sandbox.fault(fault, "api")

    found = ask_identity(keap_at(sandbox.url), sandbox.grant("cd456")[0]["access_token"], None)

    assert found.tenant_id == "cd456"


def test_nobody_knows_the_tenant_when_nobody_tells_it(sandbox):
    sandbox.fault("missing_tenant_header", "api")
    sandbox.switch(userinfo_v2_tenant_id=False)

    found = ask_identity(keap_at(sandbox.url), sandbox.grant()[0]["access_token"], None)

    assert found == replace(ALL, tenant_id=None)


def test_an_access_token_that_no_header_can_carry_tells_nothing(api):
    assert astuple(ask_identity(api.keap, "é漢🔑", "ab123")) == ("ab123", None, None, None, None)


def test_an_imported_token_is_asked_for_its_tenant_and_its_person(api):
    api.answer(USER_V2, {key: value for key, value in ANN_V2.items() if key != "tenant_id"}, TENANT_HEADER)
    api.answer(COMPANY_V2, ACME)

    assert get_identity(api.keap, "the-access-token") == ALL


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        (("401 Unauthorized", "401 Unauthorized"), CredentialRefused),
        (("401 Unauthorized", "503 Busy"), TemporarilyUnavailable),
        (("500 Oops", "429 Slow"), TemporarilyUnavailable),
        (("403 Forbidden", "403 Forbidden"), TemporarilyUnavailable),
    ],
)
def test_an_imported_token_counts_as_refused_only_when_keap_says_so(api, statuses, error):
    for path, status in zip((USER_V2, USER_V1), statuses, strict=True):
        api.answer(path, ANN_V2, status=status)

    with pytest.raises(error):
        get_identity(api.keap, "the-access-token")

    assert api.asked == [USER_V2, USER_V1]


@pytest.mark.parametrize("missing", ["id", "tenant_id"])
def test_an_imported_token_without_tenant_or_person_is_not_taken(api, missing):
    api.answer(USER_V2, {key: value for key, value in ANN_V2.items() if key != missing})

    with pytest.raises(TemporarilyUnavailable):
        get_identity(api.keap, "the-access-token")
