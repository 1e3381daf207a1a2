"""Under which host names the app answers, and what it says under others."""

import logging

import pytest

from keap_connect.settings import Settings
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send

pytestmark = on_sqlite
PUBLIC = {
    "PUBLIC_URL": "https://connect.example.com",
    "KEAP_CLIENT_ID": "our-client-id",
    "KEAP_CLIENT_SECRET": "canary-client-secret",
    **dict.fromkeys(("KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL"), ""),
}
ODD_HOSTS = (
    *("10.0.0.1:5000", "[2001:db8::1]", "LOCALHOST", "localhost.", "evil.example", "", "a b", "a..b", "é", "x" * 70),
    *("localhost:99999", "localhost:x", "[", "/", "a,b", "user@localhost"),
)


@pytest.mark.proves("R100", "F95")
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_in_plain_text_under_any_host(visitor: Visitor, path: str):
    answers = [send(visitor, "GET", path, headers={"Host": host}) for host in ODD_HOSTS]

    assert {(one.status_code, one.headers["Content-Type"]) for one in answers} == {(200, "text/plain; charset=utf-8")}


@pytest.mark.proves("R100")
@pytest.mark.parametrize("environ", [PUBLIC], indirect=True)
@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("connect.example.com", True),
        ("CONNECT.Example.Com", True),
        ("connect.example.com.", True),
        ("connect.example.com:443", True),
        ("Connect.example.com.:443", True),
        ("connect.example.com..", False),
        ("connect.example.com:x", False),
        ("connect.example.com.evil.example", False),
        ("example.com", False),
        ("connect.example.com,evil.example", False),
        ("", False),
    ],
)
def test_names_are_compared_without_case_and_trailing_dot(visitor: Visitor, host: str, is_ours: bool):
    page, program = (send(visitor, "GET", path, headers={"Host": host}) for path in ("/signin", "/api/v1/accounts"))

    assert (page.status_code, program.status_code) == ((200, 401) if is_ours else (400, 400))
    if not is_ours:
        assert program.json()["error"] == "invalid_request"
        assert "<h1>This app has another host name</h1>" in page.text
        assert "connect.example.com" not in page.text


@pytest.mark.parametrize("environ", [{"PUBLIC_URL": "http://[::1]:5000"}], indirect=True)
def test_an_address_of_version_six_is_a_host_name_too(visitor: Visitor):
    assert visitor.get("/signin").status_code == 200


@pytest.mark.proves("R100")
@pytest.mark.parametrize("path", ["/accounts", "/nothing-here", "/api/v1/accounts", "/api/nothing", "/healthz/"])
def test_the_log_names_the_host_that_came(visitor: Visitor, caplog: pytest.LogCaptureFixture, path: str):
    caplog.set_level(logging.INFO)

    answer = send(visitor, "GET", path, headers={"Host": "evil\x1b.example:80" + "x" * 500})

    assert answer.status_code == 400
    (line,) = [record.getMessage() for record in caplog.records if record.name == "keap_connect.web.network"]
    assert "evil%1B.example:80x" in line
    assert len(line) < 200
    assert line.partition(":")[0] in answer.text


@pytest.mark.proves("R100")
def test_on_loopback_the_answer_links_to_the_right_address(visitor: Visitor, settings: Settings):
    page = send(visitor, "GET", "/", headers={"Host": "127.0.0.1:5000"})

    assert page.status_code == 400
    assert f'<a href="{settings.public_url}">' in page.text
