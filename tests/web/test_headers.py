"""What every answer owes the browser, errors included: policy, cache, type, size and methods."""

import gzip
import http.client
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask

from keap_connect.settings import Settings
from tests.support.engines import on_sqlite
from tests.support.server import serve
from tests.support.visitor import Visitor
from tests.web.direct import send, visit
from tests.web.fixtures import World
from tests.web.inventory import ADDRESSES, address, posts, routes
from tests.web.provoking import TEN_MEGABYTES, refused

pytestmark = on_sqlite

REAL_KEAP = {
    "KEAP_CLIENT_ID": "a-client-of-keap",
    "KEAP_CLIENT_SECRET": "canary-client-secret",
    "KEAP_AUTHORIZE_URL": "",
    "KEAP_TOKEN_URL": "",
    "KEAP_API_URL": "",
}
ON_THE_INTERNET = {**REAL_KEAP, "PUBLIC_URL": "https://connect.example.com"}
ON_LOCALHOST_WITH_TLS = {"PUBLIC_URL": "https://localhost:8443"}


def policy(answer: requests.Response) -> dict[str, set[str]]:
    """Parse a Content-Security-Policy."""
    directives = [one.split() for one in answer.headers["Content-Security-Policy"].split(";")]
    assert len({name for name, *_ in directives}) == len(directives), "a second directive of one name is ignored"
    return {name: set(sources) for name, *sources in directives}


def shortcomings(answer: requests.Response) -> list[str]:
    """Say what an answer lacks."""
    headers = answer.headers
    found = []
    expected = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    found += [f"{name}: {headers.get(name)}" for name, value in expected.items() if headers.get(name) != value]
    sources = policy(answer)
    if sources["default-src"] != {"'none'"} or re.search(r"unsafe|nonce|\*|data:|blob:", str(sources)):
        found.append(f"Content-Security-Policy: {sources}")
    is_kept = urlsplit(answer.url).path.startswith("/static/") and answer.status_code < 400
    if (headers.get("Cache-Control") == "no-store") is is_kept:
        found.append(f"Cache-Control: {headers.get('Cache-Control')}")
    if answer.status_code not in {204, 304} and not headers.get("Content-Type", "").endswith("; charset=utf-8"):
        found.append(f"Content-Type: {headers.get('Content-Type')}")
    found += [name for name in headers if name.lower().startswith("access-control-")]
    return found


INLINE = re.compile(
    r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*\ssrc=)|<iframe|<object|<embed", re.IGNORECASE
)
LOADED = re.compile(r"<(?:script|img|source|link)\b[^>]*?\s(?:src|href)=\"([^\"]*)\"")


def find_foreign_code(answer: requests.Response) -> list[str]:
    """Return what a page holds of code, and what it loads from elsewhere."""
    foreign = [path for path in LOADED.findall(answer.text) if not path.startswith("/static/")]
    return INLINE.findall(answer.text) + foreign


def knock_everywhere(world: World, **options: object) -> Iterator[tuple[str, requests.Response]]:
    """Ask everybody's way through every route, with every method that reads, and post without a token."""
    for who in ("anonymous", "customer", "admin"):
        for endpoint, methods in routes(world.app).items():
            path = address(endpoint, world.account_id, world.held_ref)
            for method in sorted(methods):
                yield f"{who}: {method} {path}", send(world.visitor(who), method, path, **options)


@pytest.mark.proves("R66", "R68")
def test_every_route_sends_all_headers_to_everybody_and_no_inline_code(world: World):
    from_elsewhere = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}

    answers = dict(knock_everywhere(world, headers=from_elsewhere))

    assert {label: shortcomings(answer) for label, answer in answers.items() if shortcomings(answer)} == {}
    assert [label for label, answer in answers.items() if find_foreign_code(answer)] == []
    assert {answer.status_code for answer in answers.values()} >= {200, 303, 403, 404}


@pytest.mark.proves("R66")
def test_every_error_sends_all_headers(world: World):
    answers = {status: provoke() for status, provoke in refused(world).items()}

    assert {status: answer.status_code for status, answer in answers.items()} == {status: status for status in answers}
    assert {status: shortcomings(answer) for status, answer in answers.items() if shortcomings(answer)} == {}


def test_every_error_under_the_static_files_is_kept_by_nobody(world: World):
    answer = send(world.anonymous, "GET", "/static/css/nothing.css")

    assert answer.status_code == 404
    assert shortcomings(answer) == []


def test_policy_allows_own_files_and_the_authorization_server_and_nothing_else(visitor: Visitor, settings: Settings):
    keap = urlsplit(settings.keap.authorize_url)

    assert policy(visitor.get("/")) == {
        "default-src": {"'none'"},
        "script-src": {"'self'"},
        "style-src": {"'self'"},
        "img-src": {"'self'"},
        "connect-src": {"'self'"},
        "form-action": {"'self'", f"{keap.scheme}://{keap.netloc}"},
        "base-uri": {"'none'"},
        "frame-ancestors": {"'none'"},
    }


@pytest.mark.parametrize("environ", [ON_THE_INTERNET], indirect=True)
def test_policy_lets_forms_go_on_to_hosts_of_keap_only(visitor: Visitor):
    targets = policy(visitor.get("/"))["form-action"]

    assert targets == {"'self'", "https://*.infusionsoft.com", "https://*.keap.com", "https://*.thryv.com"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, None), (ON_LOCALHOST_WITH_TLS, None), (ON_THE_INTERNET, "max-age=31536000; includeSubDomains")],
    indirect=["environ"],
)
def test_https_is_demanded_for_a_year_where_there_is_https_and_never_on_localhost(
    visitor: Visitor, expected: str | None
):
    for path in ("/", "/healthz", "/nothing-here", "/static/css/base.css"):
        assert visitor.get(path).headers.get("Strict-Transport-Security") == expected


def test_files_with_a_checksum_are_kept_for_good_and_others_are_asked_for_again(visitor: Visitor):
    page = visitor.get("/").text
    files = set(re.findall(r"\"(/static/[^\"]+)\"", page))
    assert len(files) >= 5

    for path in files:
        assert re.search(r"\?v=[0-9a-f]{12}$", path)
        assert visitor.get(path).headers["Cache-Control"] == "public, max-age=31536000, immutable"
        for other in (path.partition("?")[0], path[:-12] + "0" * 12, path + "&a=b"):
            assert "immutable" not in visitor.get(other).headers["Cache-Control"]


def test_a_changed_file_gets_another_address(new_app: Callable[[], Flask], tmp_path):
    app = new_app()
    app.static_folder = str(tmp_path)
    style_sheet = tmp_path / "base.css"
    addresses = []
    for content in ("a {}", "b {}"):
        style_sheet.write_text(content)
        fresh = new_app()
        fresh.static_folder = str(tmp_path)
        with fresh.test_request_context(base_url=visit(fresh).base_url):
            addresses.append(fresh.url_for("static", filename="base.css"))

    assert len(set(addresses)) == 2


def test_styles_are_compressed_for_browsers_that_can_read_it_and_pages_never_are(app: Flask):
    browser, path = app.test_client(), "/static/css/base.css"
    plain = browser.get(path, base_url="http://localhost:5000", buffered=True)
    packed = browser.get(path, base_url="http://localhost:5000", headers={"Accept-Encoding": "gzip"}, buffered=True)
    page = browser.get("/signin", base_url="http://localhost:5000", headers={"Accept-Encoding": "gzip"})

    assert gzip.decompress(packed.data) == plain.data
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in page.headers


@pytest.mark.parametrize("path", ["/static/", "/static/css", "/static/../app.py", "/static/..%2fapp.py"])
def test_static_files_end_at_their_folder_and_list_nothing(visitor: Visitor, path: str):
    assert send(visitor, "GET", path).status_code == 404


@pytest.mark.parametrize("path", ["/accounts", "/static/css/base.css", "/healthz"])
def test_a_method_without_a_use_is_told_which_ones_have_one(admin: Visitor, path: str):
    answers = [send(admin, method, path) for method in ("TRACE", "PUT", "PATCH", "DELETE", "PROPFIND", "POST")]

    assert {one.status_code for one in answers} == {405}
    assert {frozenset(one.headers["Allow"].split(", ")) for one in answers} == {frozenset({"GET", "HEAD", "OPTIONS"})}


def test_callback_answers_get_alone(visitor: Visitor):
    answers = [send(visitor, method, "/callback?state=a&code=b") for method in ("HEAD", "OPTIONS", "POST", "TRACE")]

    assert [one.status_code for one in answers] == [405, 405, 405, 405]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
)
def test_ten_megabytes_are_too_much_for_every_form(world: World, content_type: str):
    body = b"a=" + b"x" * TEN_MEGABYTES

    statuses = {
        endpoint: send(
            world.admin, "POST", address(endpoint, 1, world.held_ref), {"Content-Type": content_type}, data=body
        ).status_code
        for endpoint in posts(world.app)
    }

    assert statuses == dict.fromkeys(posts(world.app), 413)


# Of a body without a length the first 64 kB are read, and no more: there is no token among them.
@pytest.mark.parametrize(("has_length", "status"), [(True, 413), (False, 403)])
def test_a_body_without_end_is_refused_before_it_was_read(
    app: Flask, settings: Settings, has_length: bool, status: int
):
    kind = ("Content-Length", str(TEN_MEGABYTES)) if has_length else ("Transfer-Encoding", "chunked")
    with serve(app, settings.port):
        connection = http.client.HTTPConnection("localhost", settings.port, timeout=30)
        connection.putrequest("POST", "/signin")
        connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        connection.putheader(*kind)
        connection.endheaders()
        for _ in range(0 if has_length else 3):
            connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")

        answer = connection.getresponse()
        connection.close()

    assert answer.status == status


@pytest.mark.proves("F58")
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1", "a b", ""])
def test_an_unknown_host_gets_an_answer_that_names_no_host_but_ours(visitor: Visitor, host: str):
    answer = send(visitor, "GET", "/", headers={"Host": host})

    assert answer.status_code == 400
    assert shortcomings(answer) == []
    assert "evil" not in answer.text
    assert set(re.findall(r"https?:[^\"<]*", answer.text)) == {visitor.base_url}


@pytest.mark.proves("F58")
@pytest.mark.parametrize("environ", [{}, {"TRUSTED_PROXIES": "1"}], indirect=True)
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/evil"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Host": "evil.example", "X-Original-Host": "evil.example"},
    ],
)
def test_no_header_changes_where_keap_sends_the_browser_back_to(
    visitor: Visitor, settings: Settings, headers: dict[str, str]
):
    visitor.session.headers.update(headers)

    authorization_url = visitor.set_out()

    assert parse_qs(urlsplit(authorization_url).query)["redirect_uri"] == [f"{settings.public_url}/callback"]
    assert "evil" not in visitor.get("/").text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_tells_nothing_but_that_it_is_well(visitor: Visitor, path: str):
    assert visitor.get(path).text in {"ok\n", "ready\n"}
    assert ADDRESSES[f"health.{path[1:]}"] == path
