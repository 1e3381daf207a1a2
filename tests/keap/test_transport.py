"""The line to Keap under attack: slow, endless, cut, redirected, untrusted; each call ends in time and is judged."""

import base64
import gzip
import json
import os
import socket
import ssl
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import repeat
from urllib.parse import parse_qs

import pytest
import requests
import trustme

from keap_connect.keap import identity, token_endpoint, transport
from keap_connect.keap.greeting import greet_token_endpoint
from keap_connect.keap.identity import ask_identity
from keap_connect.keap.judgement import Verdict
from keap_connect.keap.token_endpoint import exchange_code, refresh
from keap_connect.keap.transport import SIZE_CAP_BYTES, allow_loopback_http, keap_session
from keap_connect.settings import KeapSettings
from tests.keap.raw_server import RawServer, answering, http

PAIR = {
    "access_token": "new-access-token",
    "token_type": "bearer",
    "expires_in": 86399,
    "refresh_token": "new-refresh-token",
    "scope": "full|ab123.infusionsoft.com",
}
BODY = json.dumps(PAIR).encode()
CHUNKED = http(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), "Transfer-Encoding: chunked", length=None)
DEADLINE_SECONDS = 0.6
REDIRECTS = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]


@pytest.fixture(autouse=True)
def no_known_names(monkeypatch):
    monkeypatch.setattr(transport, "_addresses", {})


@pytest.fixture
def short_deadline(monkeypatch):
    hurried = partial(keap_session, deadline_seconds=DEADLINE_SECONDS)
    monkeypatch.setattr(token_endpoint, "keap_session", hurried)


@pytest.fixture
def server():
    with RawServer() as running:
        yield running


@pytest.fixture
def keap(server):
    return keap_at(server)


def keap_at(server, **changes):
    registration = KeapSettings(
        client_id="p:%+ id",
        client_secret="p:%+ e&=/?#",
        authorize_url=f"{server.url}/app/oauth/authorize",
        token_url=f"{server.url}/token",
        api_url=f"{server.url}/crm/rest",
        redirect_uri="http://localhost:5000/callback",
    )
    return replace(registration, **changes)


def assert_in_doubt(judgement):
    assert judgement.verdict is Verdict.TRY_LATER
    assert judgement.was_sent
    assert judgement.may_have_rotated


def assert_not_sent(judgement, server):
    server.close()
    assert judgement.verdict is Verdict.TRY_LATER
    assert not judgement.was_sent
    assert not judgement.may_have_rotated
    assert server.requests == []


def drip_everything(connection):
    connection.read_request()
    connection.drip(http(BODY))


def drip_body(connection, **length):
    connection.read_request()
    connection.send(http(b"", **(length or {"length": len(BODY)})))
    connection.drip(BODY)


def drip_body_of_unknown_length(connection):
    drip_body(connection, length=None)


def drip_chunks(connection):
    connection.read_request()
    head, _, body = CHUNKED.partition(b"\r\n\r\n")
    connection.send(head + b"\r\n\r\n")
    connection.drip(body)


def never_answer(connection):
    connection.read_request()
    connection.wait_until_client_leaves()


def never_read(connection):
    connection.wait_for_the_end()


def send_a_whole_answer_that_does_not_end(connection):
    connection.read_request()
    connection.send(http(BODY, length=None))
    connection.wait_until_client_leaves()


def send_without_end(connection):
    connection.read_request()
    connection.send(http(b"", length=None))
    connection.stream(repeat(b" " * 1000))


grant = answering(http(BODY))


# Deadlines


@pytest.mark.proves("R20", "F19")
@pytest.mark.parametrize(
    "script",
    [
        drip_everything,
        drip_body,
        drip_body_of_unknown_length,
        drip_chunks,
        never_answer,
        never_read,
        send_a_whole_answer_that_does_not_end,
    ],
)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_a_call_ends_at_its_deadline_and_is_in_doubt(server, keap, short_deadline, script, ask):
    server.script = script

    # What drips would be granted at its end, and the others have none.
    assert_in_doubt(ask(keap, "the-presented-secret"))


@pytest.mark.proves("R20")
def test_the_deadline_of_a_real_call_is_thirty_seconds(server, keap, monkeypatch):
    lengths = []
    monkeypatch.setattr(transport._watchdog, "watch", lambda call: lengths.append(call.remaining_seconds()))
    server.script = grant

    assert refresh(keap, "r").verdict is Verdict.GRANTED
    assert lengths == [pytest.approx(30, abs=1)]


@pytest.mark.proves("R20")
def test_a_short_call_is_cut_off_while_a_longer_one_is_under_way(server, keap):
    has_come = threading.Event()
    calls = []

    def wait_long(connection):
        has_come.set()
        never_answer(connection)

    def get(deadline_seconds):
        with keap_session(keap, deadline_seconds=deadline_seconds) as (session, call):
            calls.append(call)
            with pytest.raises(requests.RequestException):
                session.get(keap.token_url)

    server.script = wait_long
    with ThreadPoolExecutor(1) as thread:
        longer = thread.submit(get, 20.0)
        assert has_come.wait(10)
        get(0.3)
        assert not longer.done()
        calls[0].shut_down()
        longer.result(10)


@pytest.mark.parametrize("answer", [http(BODY), CHUNKED, http(BODY, length=None)], ids=["length", "chunked", "close"])
def test_an_answer_in_time_is_granted_however_its_end_is_told(server, keap, short_deadline, answer):
    server.script = answering(answer)

    assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(http(BODY), Verdict.GRANTED), (CHUNKED, Verdict.GRANTED), (http(BODY, length=None), Verdict.TRY_LATER)],
    ids=["length", "chunked", "close"],
)
def test_an_answer_that_arrived_whole_while_the_process_slept_is_not_thrown_away(
    server, keap, boot_clock, answer, verdict
):
    def answer_and_let_time_pass(connection):
        connection.read_request()
        boot_clock.offset += 3600
        connection.send(answer)

    server.script = answer_and_let_time_pass

    assert refresh(keap, "r").verdict is verdict


@pytest.mark.proves("R20", "F19")
@pytest.mark.parametrize("length", [100_000_000, None])
def test_a_body_of_100_mb_is_cut_off_and_memory_stays_flat(server, keap, length):
    def send_100_mb(connection):
        connection.read_request()
        connection.send(http(b"", length=length))
        connection.stream(repeat(b" " * 100_000, 1000))

    server.script = send_100_mb
    tracemalloc.start()
    judgement = refresh(keap, "r")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    server.close()

    assert_in_doubt(judgement)
    assert str(SIZE_CAP_BYTES) in judgement.reason
    assert peak < 8 * SIZE_CAP_BYTES
    assert server.connections[0].bytes_sent < 50_000_000


@pytest.mark.proves("R20")
def test_a_small_body_that_unpacks_to_100_mb_is_cut_off(server, keap):
    server.script = answering(http(gzip.compress(b" " * 100_000_000, compresslevel=1), "Content-Encoding: gzip"))
    tracemalloc.start()
    judgement = refresh(keap, "r")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert_in_doubt(judgement)
    assert peak < 8 * SIZE_CAP_BYTES


@pytest.mark.proves("F19")
def test_an_endless_body_is_cut_off_at_the_size_cap(server, keap):
    server.script = send_without_end

    assert_in_doubt(refresh(keap, "r"))
    assert server.connections[0].bytes_sent < 16 * SIZE_CAP_BYTES  # until the deadline it would be far more


def test_the_call_leaves_no_thread_and_no_open_file(server, keap, short_deadline):
    server.script = grant
    refresh(keap, "r")
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))

    for _ in range(5):
        refresh(keap, "r")
    server.close()

    assert threading.active_count() <= threads
    assert len(os.listdir("/dev/fd")) <= files


# Lost lines


@pytest.mark.parametrize("script", ["reset", "close", "truncate", "truncate_chunks"])
def test_a_line_cut_after_the_request_was_read_leaves_doubt(server, keap, script):
    def cut(connection):
        connection.read_request()
        if script == "truncate":
            connection.send(http(BODY)[:-20])
        if script == "truncate_chunks":
            connection.send(CHUNKED[:-20])
        if script == "reset":
            connection.reset()

    server.script = cut

    assert_in_doubt(refresh(keap, "r"))


def test_a_line_cut_before_anything_was_read_leaves_doubt_too(server, keap):
    def cut(connection):
        connection.wait_for_first_byte()
        connection.reset()

    server.script = cut

    assert_in_doubt(refresh(keap, "r"))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00" * 100,
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n" + BODY,
        http(BODY, "Content-Length: 7", length=3),
        http(b"zz\r\n" + BODY, "Transfer-Encoding: chunked", length=None),
        http(b"-5\r\n" + BODY, "Transfer-Encoding: chunked", length=None),
        http(b"not gzip at all", "Content-Encoding: gzip"),
    ],
    ids=lambda answer: str(answer[:60]),
)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_what_is_no_http_answer_leaves_doubt_never_an_exception(server, keap, ask, answer):
    server.script = answering(answer)

    assert_in_doubt(ask(keap, "the-presented-secret"))


# Known not sent


@pytest.mark.proves("F16")
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_a_refused_connection_is_known_not_sent(server, keap, ask):
    server.close()

    assert_not_sent(ask(keap, "the-presented-secret"), server)


@pytest.mark.proves("F16")
def test_a_name_that_does_not_resolve_is_known_not_sent(server, keap, monkeypatch):
    def not_found(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", not_found)

    assert_not_sent(refresh(keap, "r"), server)


def test_a_name_lookup_that_hangs_is_cut_off(server, keap, short_deadline, monkeypatch):
    is_over, ended = threading.Event(), []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.append(is_over.wait(30)) or [])

    judgement = refresh(keap, "r")

    assert ended == []
    is_over.set()
    assert_not_sent(judgement, server)


@pytest.mark.proves("F16")
def test_a_connect_that_hangs_is_cut_off(keap, server, short_deadline):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        # The queue of a listener that never accepts holds two; the system drops whoever comes then.
        waiting = [socket.socket() for _ in range(2)]
        for early in waiting:
            early.setblocking(False)
            early.connect_ex(("127.0.0.1", port))
        judgement = refresh(replace(keap, token_url=f"http://127.0.0.1:{port}/token"), "r")
        for early in waiting:
            early.close()

    assert_not_sent(judgement, server)
    assert judgement.reason == "Keap could not be reached (ConnectTimeout)."


def test_a_name_is_looked_up_again_after_a_while_and_when_nobody_is_at_its_address(
    server, keap, boot_clock, monkeypatch
):
    asked = []
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: asked.append(args[0]) or real(*args, **more))
    server.script = grant

    refresh(keap, "r")
    refresh(keap, "r")
    assert asked.count("localhost") == 1
    boot_clock.offset += 31
    refresh(keap, "r")
    assert asked.count("localhost") == 2
    server.close()
    refresh(keap, "r")
    refresh(keap, "r")
    assert asked.count("localhost") == 3, "the address that failed was known; the next call asked where Keap is now"


def test_the_next_address_of_a_name_is_tried_when_one_refuses(server, keap, monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, server.port)) for address in ("127.0.0.2", "127.0.0.1")
    ]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: found if host == "localhost" else real(host, *rest, **more)
    )
    server.script = grant

    assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.fixture
def boot_clock(monkeypatch):
    """Give the clock of the deadlines, to be moved."""

    class BootClock:
        offset = 0.0

    moved, real = BootClock(), transport.seconds_since_boot
    monkeypatch.setattr(transport, "seconds_since_boot", lambda: real() + moved.offset)
    return moved


def test_a_process_that_slept_between_connecting_and_writing_sends_nothing(server, keap, boot_clock, monkeypatch):
    connect = transport._KeapConnection._new_conn

    def connect_and_sleep(connection):
        connected = connect(connection)
        boot_clock.offset += 3600
        return connected

    monkeypatch.setattr(transport._KeapConnection, "_new_conn", connect_and_sleep)

    assert_not_sent(refresh(keap, "r"), server)
    assert len(server.connections) == 1


# Redirects


@pytest.mark.proves("R19", "F15")
@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_no_redirect_of_the_token_endpoint_is_followed(server, keap, status, ask):
    with RawServer() as elsewhere:
        server.script = answering(http(b"", f"Location: {elsewhere.url}/token", status=status))

        judgement = ask(keap, "the-presented-secret")

    assert_in_doubt(judgement)
    assert elsewhere.connections == []
    assert len(server.connections) == 1


@pytest.mark.proves("R19")
@pytest.mark.parametrize("status", REDIRECTS)
def test_no_redirect_of_the_api_is_followed(server, keap, status):
    with RawServer() as elsewhere:
        server.script = answering(http(b"", f"Location: {elsewhere.url}/userinfo", status=status))

        found = ask_identity(keap, "the-access-token", "ab123")

    assert elsewhere.connections == []
    assert (found.tenant_id, found.keap_user_id) == ("ab123", None)


@pytest.mark.proves("F15")
@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirect_to_itself_is_asked_once(server, keap, status):
    server.script = answering(http(b"", f"Location: {server.url}/token", status=status))

    assert_in_doubt(refresh(keap, "r"))
    assert len(server.connections) == 1


# TLS


@pytest.fixture
def authority(monkeypatch, tmp_path):
    """Give a certificate authority that this process trusts."""
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setattr("requests.utils.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "ca.pem"))
    return trusted


def tls_server(authority, *names, script=grant, **validity):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **validity).configure_cert(context)
    return RawServer(script, context)


def test_a_trusted_certificate_is_accepted(authority):
    with tls_server(authority, "localhost") as server:
        assert refresh(keap_at(server), "r").verdict is Verdict.GRANTED


def test_the_certificate_authorities_are_read_once_and_nothing_is_sent_without_them(authority, monkeypatch, tmp_path):
    with tls_server(authority, "localhost") as server:
        assert refresh(keap_at(server), "r").verdict is Verdict.GRANTED
        (tmp_path / "ca.pem").unlink()
        assert refresh(keap_at(server), "r").verdict is Verdict.GRANTED

        monkeypatch.setattr("requests.utils.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "gone.pem"))
        judgement = refresh(keap_at(server), "r")
        greeting = greet_token_endpoint(keap_at(server))
        server.close()
    assert greeting.problem == "Nothing was sent to it: the certificate authorities to trust cannot be read."
    assert judgement.verdict is Verdict.TRY_LATER
    assert not judgement.was_sent
    assert judgement.reason == "Nothing was sent to Keap: the certificate authorities to trust cannot be read."
    assert len(server.requests) == 2


@pytest.mark.proves("R17")
def test_nothing_is_sent_to_a_server_that_nobody_vouches_for():
    with tls_server(trustme.CA(), "localhost") as server:
        assert_not_sent(refresh(keap_at(server), "r"), server)
        assert_not_sent(exchange_code(keap_at(server), "c"), server)


def test_nothing_is_sent_when_the_certificate_has_expired(authority):
    a_day = timedelta(days=1)
    now = datetime.now(UTC)
    with tls_server(authority, "localhost", not_before=now - 3 * a_day, not_after=now - a_day) as server:
        assert_not_sent(refresh(keap_at(server), "r"), server)


def test_nothing_is_sent_when_the_certificate_names_another_host(authority):
    with tls_server(authority, "elsewhere.example") as server:
        assert_not_sent(refresh(keap_at(server), "r"), server)


@pytest.mark.proves("R17")
def test_no_access_token_is_sent_to_a_server_that_nobody_vouches_for():
    with tls_server(trustme.CA(), "localhost") as server:
        found = ask_identity(keap_at(server), "the-access-token", "ab123")
        server.close()

        assert server.requests == []
    assert found.keap_user_id is None


@pytest.mark.parametrize("script", [drip_everything, never_answer, send_a_whole_answer_that_does_not_end])
def test_the_deadline_holds_inside_tls(authority, short_deadline, script):
    with tls_server(authority, "localhost", script=script) as server:
        assert_in_doubt(refresh(keap_at(server), "r"))


def test_a_tls_handshake_that_hangs_is_cut_off_and_known_not_sent(server, keap, short_deadline):
    ended = []
    server.script = lambda _: ended.append(server.is_over.wait(30))

    judgement = refresh(replace(keap, token_url=f"https://localhost:{server.port}/token"), "r")

    assert ended == []
    assert_not_sent(judgement, server)


@pytest.mark.proves("R17")
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_plain_http_is_refused_before_anything_is_sent(server, keap, monkeypatch, ask):
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT")

    judgement = ask(keap, "the-presented-secret")

    assert_not_sent(judgement, server)
    assert server.connections == []


@pytest.mark.proves("R17")
def test_no_access_token_goes_over_plain_http_and_the_grant_is_kept(server, keap, monkeypatch):
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT")

    found = ask_identity(keap, "the-access-token", "ab123")

    assert server.connections == []
    assert found.tenant_id == "ab123"


@pytest.mark.proves("R17")
@pytest.mark.parametrize(
    ("changes", "is_allowed"),
    [
        ({}, True),
        ({"authorize_url": "https://signin.infusionsoft.com/app/oauth/authorize"}, False),
        ({"token_url": "https://api.infusionsoft.com/token"}, False),
        ({"api_url": "https://api.infusionsoft.com/crm/rest"}, False),
        ({"token_url": "http://localhost.evil.example/token"}, False),
        ({"token_url": "http://127.0.0.1@evil.example/token"}, False),
    ],
)
def test_plain_http_is_allowed_only_when_every_address_is_loopback(keap, monkeypatch, changes, is_allowed):
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT")
    monkeypatch.setattr(os, "environ", dict(os.environ))

    allow_loopback_http(replace(keap, **changes))

    assert ("OAUTHLIB_INSECURE_TRANSPORT" in os.environ) is is_allowed


# What is sent


def parsed(request):
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return first, headers, parse_qs(body.decode(), keep_blank_values=True)


@pytest.mark.proves("R18")
def test_refreshing_sends_the_client_by_basic_form_encoded_first(server, keap):
    server.script = grant

    refresh(keap, "the+refresh token")
    first, headers, form = parsed(server.requests[0])

    assert first == "POST /token HTTP/1.1"
    assert (
        base64.b64decode(headers["authorization"].removeprefix("Basic "))
        == b"p%3A%25%2B+id:p%3A%25%2B+e%26%3D%2F%3F%23"
    )
    assert headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert form == {"grant_type": ["refresh_token"], "refresh_token": ["the+refresh token"]}


@pytest.mark.proves("R18")
def test_exchanging_a_code_sends_the_client_in_the_body(server, keap):
    server.script = grant

    exchange_code(keap, "the+code", "the-verifier")
    first, headers, form = parsed(server.requests[0])

    assert first == "POST /token HTTP/1.1"
    assert "authorization" not in headers
    assert form == {
        "grant_type": ["authorization_code"],
        "client_id": [keap.client_id],
        "client_secret": [keap.client_secret],
        "code": ["the+code"],
        "redirect_uri": [keap.redirect_uri],
        "code_verifier": ["the-verifier"],
    }


def test_the_access_token_travels_in_a_header_only(server, keap):
    server.script = answering(http(b"{}"))

    ask_identity(keap, "the-access-token", None)

    for request in server.requests:
        first, headers, _ = parsed(request)
        assert first.startswith("GET /crm/rest/v")
        assert "the-access-token" not in first
        assert headers["authorization"] == "Bearer the-access-token"


def test_neither_netrc_nor_proxies_of_the_machine_are_used(server, keap, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine localhost login stranger password netrc-password\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script = grant
    with RawServer() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

        assert refresh(keap, "r").verdict is Verdict.GRANTED
        assert exchange_code(keap, "c").verdict is Verdict.GRANTED
        ask_identity(keap, "the-access-token", None)

    assert proxy.connections == []
    assert base64.b64encode(b"stranger:netrc-password") not in b"".join(server.requests)


def test_each_call_has_a_connection_of_its_own(server, keap):
    server.script = answering(http(BODY).replace(b"Connection: close", b"Connection: keep-alive"))

    refresh(keap, "r")
    refresh(keap, "r")

    assert len(server.connections) == 2


@pytest.mark.proves("R20")
def test_questions_about_the_person_have_a_deadline_too(server, keap, monkeypatch):
    monkeypatch.setattr(identity, "DEADLINE_SECONDS", 0.2)
    watch, lengths = transport._watchdog.watch, []
    monkeypatch.setattr(
        transport._watchdog, "watch", lambda call: (lengths.append(call.remaining_seconds()), watch(call))
    )
    server.script = never_answer

    found = ask_identity(keap, "the-access-token", "ab123")

    assert (found.tenant_id, found.keap_user_id) == ("ab123", None)
    assert len(server.connections) == len(lengths) == 4
    assert max(lengths) <= 0.2
