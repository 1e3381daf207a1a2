"""The line to Keap under attack: slow, endless, cut, redirected, untrusted; each call ends in time and is judged."""

import base64
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs

import pycurl
import pytest
import trustme
from flask import Response

from keap_connect.clock import seconds_since_boot
from keap_connect.keap import transport, user_info
from keap_connect.keap.answers import Verdict
from keap_connect.keap.token_endpoint import check_token_endpoint, exchange_code, refresh
from keap_connect.keap.transport import SIZE_CAP_BYTES, Call, KeapSession, NoUsableAnswer, allow_loopback_http
from keap_connect.keap.user_info import ask_identity
from keap_connect.sandbox.fault_library import network
from keap_connect.settings import KeapSettings
from tests.keap.raw_server import RawServer, answering, http
from tests.support.server import free_port
from tests.test_settings import read

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
UNKNOWN_NAME = f"{'x' * 64}.example"  # longer than a name can be, so that no server is asked
REDIRECTS = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]


@pytest.fixture
def short_deadline(monkeypatch):
    monkeypatch.setattr(transport, "DEADLINE_SECONDS", DEADLINE_SECONDS)


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


def one_refresh(token_url, deadline_seconds, prefix=(), **more):
    """Start a program that refreshes once and prints how it is judged."""
    orders = json.dumps({"token_url": token_url, "deadline_seconds": deadline_seconds, **more})
    command = [*prefix, sys.executable, "-m", "tests.keap.one_refresh", orders]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)


def told_by(program):
    return json.loads(program.communicate(timeout=30)[0])


def assert_in_doubt(classified):
    assert classified.verdict is Verdict.TRY_LATER
    assert classified.was_sent
    assert classified.may_have_rotated


def assert_not_sent(classified, server):
    server.close()
    assert classified.verdict is Verdict.TRY_LATER
    assert not classified.was_sent
    assert not classified.may_have_rotated
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


def reset_after_reading(connection):
    connection.read_request()
    connection.reset()


def never_read(connection):
    connection.wait_for_the_end()


def send_without_end(connection):
    connection.read_request()
    connection.send(http(b"", length=None))
    connection.stream(repeat(b" " * 1000))


grant = answering(http(BODY))


# Deadlines


@pytest.mark.proves("R20", "F19")
@pytest.mark.parametrize(
    "script", [drip_everything, drip_body, drip_body_of_unknown_length, drip_chunks, never_answer, never_read]
)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_a_call_ends_at_its_deadline_and_is_outcome_unknown(server, keap, short_deadline, script, ask):
    server.script = script

    # What drips would be granted at its end, and the others have none.
    assert_in_doubt(ask(keap, "the-presented-secret"))


@pytest.mark.proves("R20")
def test_the_deadline_of_a_real_call_is_thirty_seconds(server, keap, monkeypatch):
    lengths = []
    last_check = Call.last_check
    monkeypatch.setattr(
        Call, "last_check", lambda call, *_: lengths.append(call.ends - seconds_since_boot()) or last_check(call)
    )
    server.script = grant

    assert refresh(keap, "r").verdict is Verdict.GRANTED
    assert lengths == [pytest.approx(30, abs=1)]


@pytest.mark.proves("R20")
def test_a_short_call_is_cut_off_while_a_longer_one_is_under_way(server, keap):
    has_come = threading.Event()

    def wait_long(connection):
        has_come.set()
        never_answer(connection)

    def get(deadline_seconds):
        with pytest.raises(NoUsableAnswer):
            KeapSession(keap, Call(deadline_seconds)).get(keap.token_url)

    server.script = wait_long
    with ThreadPoolExecutor(1) as thread:
        longer = thread.submit(get, 20.0)
        assert has_come.wait(10)
        get(0.3)
        assert not longer.done()
        server.close()
        longer.result(10)


@pytest.mark.parametrize("answer", [http(BODY), CHUNKED, http(BODY, length=None)], ids=["length", "chunked", "close"])
def test_an_answer_in_time_is_granted_however_its_end_is_told(server, keap, short_deadline, answer):
    server.script = answering(answer)

    assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.mark.proves("R101", "F84")
@pytest.mark.parametrize("answer", [http(BODY), CHUNKED, http(BODY, length=None)], ids=["length", "chunked", "close"])
def test_an_answer_that_arrived_whole_while_the_process_slept_is_not_thrown_away(server, keap, boot_clock, answer):
    def answer_and_let_time_pass(connection):
        connection.read_request()
        boot_clock.offset += 3600
        connection.send(answer)

    server.script = answer_and_let_time_pass

    assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.mark.proves("R101", "F84", "F79")
def test_a_process_stopped_past_its_deadline_reads_the_answer_in_its_socket(server, keap):
    def stop_and_answer(connection):
        connection.read_request()
        program.send_signal(signal.SIGSTOP)
        ends_at = seconds_since_boot() + 3  # the deadline and what is granted beyond it
        head, _, body = http(BODY).partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        connection.send(body)
        while seconds_since_boot() < ends_at:
            server.is_over.wait(0.1)
        program.send_signal(signal.SIGCONT)

    server.script = stop_and_answer
    program = one_refresh(keap.token_url, deadline_seconds=1)

    assert told_by(program)["verdict"] == Verdict.GRANTED


@pytest.mark.proves("R101", "F84")
@pytest.mark.parametrize(
    "way",
    [way for way in get_args(network.Framing) if way != "in turn"]
    + ["wrong type of content", "gzip unasked", "gzip unasked, length too long", "deflate unasked", "two lengths"]
    + ["sent twice", "more after its length"],
)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_a_whole_grant_counts_whatever_is_wrong_with_its_framing(server, keap, short_deadline, ask, way):
    own = {
        "wrong type of content": http(BODY, "Content-Type: text/html; charset=utf-16"),
        "gzip unasked": http(gzip.compress(BODY)),
        "gzip unasked, length too long": http(gzip.compress(BODY), length=len(BODY) + 1000),
        "deflate unasked": http(zlib.compress(BODY), "Content-Encoding: deflate"),
        "two lengths": http(BODY, "Content-Length: 7", length=3),
        "sent twice": http(BODY) * 2,
        "more after its length": http(BODY + b"<script>", length=len(BODY)),
    }
    answer = Response(BODY, content_type="application/json")

    def send(connection):
        connection.read_request()
        connection.send(own[way] if way in own else next(network.framed(answer, way)))
        if way.endswith("left open"):
            connection.wait_until_client_leaves()

    server.script = send

    granted = ask(keap, "r").token_response

    assert (granted.access_token, granted.refresh_token) == (PAIR["access_token"], PAIR["refresh_token"])


@contextmanager
def noting(event, has_come):
    """Set the event as soon as a call that may be whole has what a test waits for."""

    def whole(call):
        if has_come(call):
            event.set()
        return is_whole(call)

    is_whole = Call.is_whole
    with pytest.MonkeyPatch.context() as noted:
        noted.setattr(Call, "is_whole", whole)
        yield


@pytest.mark.proves("R101", "F84")
def test_a_grant_whose_end_comes_late_is_read_past_a_length_that_is_too_short(server, keap, short_deadline):
    has_read_half = threading.Event()

    def send_in_two_parts(connection):
        connection.read_request()
        connection.send(http(BODY[:20], length=10))
        has_read_half.wait(10)
        connection.send(BODY[20:])
        connection.wait_until_client_leaves()

    server.script = send_in_two_parts
    with noting(has_read_half, lambda call: call.body == BODY[:20]):
        assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(b"", status="429 Too Many Requests"), "Keap asked us to slow down (429)."),
        (http(b"<p>later</p>", status="503 Unavailable"), "Keap answered 503 (an HTML page)."),
        (http(b"[]"), "Keap answered 200 without a usable token."),
    ],
    ids=["empty", "html", "list"],
)
def test_an_answer_that_is_no_grant_ends_at_its_length_although_the_connection_stays_open(
    server, keap, short_deadline, answer, reason
):
    def send_and_stay(connection):
        connection.read_request()
        connection.send(answer)
        connection.wait_until_client_leaves()

    server.script = send_and_stay

    assert refresh(keap, "r").reason == reason


@pytest.mark.proves("R101")
def test_the_length_in_early_hints_ends_nothing(server, keap):
    has_read_hints = threading.Event()

    def send_in_two_parts(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n")
        has_read_hints.wait(10)
        connection.send(http(BODY))

    server.script = send_in_two_parts
    with noting(has_read_hints, lambda call: call.head):
        assert refresh(keap, "r").verdict is Verdict.GRANTED


@pytest.mark.proves("R101")
@pytest.mark.parametrize("body", [BODY[:-1], BODY[1:], b"[" + BODY + b"]", b""], ids=str)
def test_half_a_grant_in_a_bad_frame_stays_in_doubt(server, keap, body):
    server.script = answering(http(body, length=len(BODY) + 10))

    assert_in_doubt(refresh(keap, "r"))


@pytest.mark.proves("R101")
def test_a_whole_refusal_in_a_bad_frame_is_a_refusal(server, keap):
    body = b'{"error":"invalid_grant","error_description":"Invalid refresh token"}'
    server.script = answering(http(body, status="400 Bad Request", length=len(body) + 10))

    assert refresh(keap, "the-presented-secret").verdict is Verdict.REFUSED_FOR_GOOD


@pytest.mark.proves("R20", "F19")
@pytest.mark.parametrize("length", [100_000_000, None])
def test_a_body_of_100_mb_is_cut_off_and_memory_stays_flat(server, keap, length):
    def send_100_mb(connection):
        connection.read_request()
        connection.send(http(b"", length=length))
        connection.stream(repeat(b" " * 100_000, 1000))

    server.script = send_100_mb
    tracemalloc.start()
    classified = refresh(keap, "r")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    server.close()

    assert_in_doubt(classified)
    assert str(SIZE_CAP_BYTES) in classified.reason
    assert peak < 8 * SIZE_CAP_BYTES
    assert server.connections[0].bytes_sent < 50_000_000


@pytest.mark.proves("R20")
def test_a_small_body_that_unpacks_to_100_mb_is_cut_off(server, keap):
    server.script = answering(http(gzip.compress(b" " * 100_000_000, compresslevel=1), "Content-Encoding: gzip"))
    tracemalloc.start()
    classified = refresh(keap, "r")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert_in_doubt(classified)
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
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n" + BODY,
        http(b"zz\r\n" + BODY, "Transfer-Encoding: chunked", length=None),
        http(b"-5\r\n" + BODY, "Transfer-Encoding: chunked", length=None),
        http(b"not gzip at all", "Content-Encoding: gzip"),
        http(b"<p>", "Content-Length: " + "9" * 5000, length=None),  # more digits than int() reads
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
def test_a_name_that_does_not_resolve_is_known_not_sent(server, keap):
    classified = refresh(replace(keap, token_url=f"https://{UNKNOWN_NAME}/token"), "r")

    assert_not_sent(classified, server)
    assert f"Could not resolve host: {UNKNOWN_NAME}" in classified.reason


@pytest.mark.proves("F16", "R20")
def test_a_name_server_that_never_answers_is_not_waited_for(tmp_path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.9\noptions timeout:30 attempts:9\n")
    mounted = f"ip link set lo up && mount --bind {tmp_path}/resolv.conf /etc/resolv.conf"
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c"]
    try:
        subprocess.run([*namespace, mounted], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("namespaces are not allowed here")

    # The program ends: it does not wait for the lookup either, which would last for minutes.
    program = one_refresh(
        "https://keap.example/token", 1, [*namespace, f'{mounted} && exec "$@"', "sh"], name_server="127.0.0.9"
    )
    told = told_by(program)

    assert told["reason"].startswith("Keap could not be reached, so nothing was sent: Resolving timed out after ")
    assert not told["was_sent"]
    assert not told["may_have_rotated"]


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
        classified = refresh(replace(keap, token_url=f"http://127.0.0.1:{port}/token"), "r")
        for early in waiting:
            early.close()

    assert_not_sent(classified, server)
    assert classified.reason.startswith("Keap could not be reached, so nothing was sent: Connection timed out after ")


def test_the_next_address_of_a_name_is_tried_when_one_refuses(server, keap, monkeypatch):
    both = (pycurl.RESOLVE, [f"localhost:{server.port}:[::1],127.0.0.2,127.0.0.1"])
    monkeypatch.setattr(transport, "OPTIONS", (*transport.OPTIONS, both))
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


@pytest.mark.proves("F79", "R101")
@pytest.mark.parametrize("past", [0.1, 3600])
def test_after_a_pause_past_the_deadline_there_is_time_to_read_what_arrived_meanwhile(boot_clock, past):
    call = Call()
    boot_clock.offset += transport.DEADLINE_SECONDS - 0.1
    assert not call.go_on()

    boot_clock.offset += past
    assert not call.go_on()

    boot_clock.offset += 3600
    assert not call.go_on()

    boot_clock.offset += 1
    assert call.go_on()


def test_a_process_that_slept_between_connecting_and_writing_sends_nothing(server, keap, boot_clock, monkeypatch):
    last_check = Call.last_check

    def sleep_first(*args):
        boot_clock.offset += 3600
        return last_check(*args)

    monkeypatch.setattr(Call, "last_check", sleep_first)

    assert_not_sent(refresh(keap, "r"), server)
    assert len(server.connections) == 1


# Redirects


@pytest.mark.proves("R19", "F15")
@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_no_redirect_of_the_token_endpoint_is_followed(server, keap, status, ask):
    with RawServer() as elsewhere:
        server.script = answering(http(b"", f"Location: {elsewhere.url}/token", status=status))

        classified = ask(keap, "the-presented-secret")

    assert_in_doubt(classified)
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
    monkeypatch.setattr("certifi.where", lambda: str(tmp_path / "ca.pem"))
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

        monkeypatch.setattr("certifi.where", lambda: str(tmp_path / "gone.pem"))
        classified = refresh(keap_at(server), "r")
        greeting = check_token_endpoint(keap_at(server))
        server.close()
    assert "gone.pem" in greeting.problem
    assert classified.verdict is Verdict.TRY_LATER
    assert not classified.was_sent
    assert "gone.pem" in classified.reason
    assert len(server.requests) == 2


@pytest.mark.proves("F100")
def test_an_authority_that_the_settings_add_is_trusted_beside_the_usual_ones(authority, tmp_path):
    company = trustme.CA()
    several = b"# Soci\xc3\xa9t\xc3\xa9\n" + trustme.CA().cert_pem.bytes() + b"\n# ours\n" + company.cert_pem.bytes()
    (tmp_path / "company.pem").write_bytes(several)
    trusted = read(KEAP_CA_FILE=str(tmp_path / "company.pem")).keap.further_authorities
    for issuer in (company, authority):
        with tls_server(issuer, "localhost") as server:
            assert refresh(keap_at(server, further_authorities=trusted), "r").verdict is Verdict.GRANTED


@pytest.mark.proves("F100")
def test_ssl_cert_file_replaces_the_usual_authorities(authority, tmp_path):
    company = trustme.CA()
    company.cert_pem.write_to_path(tmp_path / "company.pem")
    trusted = read(SSL_CERT_FILE=str(tmp_path / "company.pem")).keap.authorities_file
    with tls_server(company, "localhost") as server:
        assert refresh(keap_at(server, authorities_file=trusted), "r").verdict is Verdict.GRANTED
    with tls_server(authority, "localhost") as server:
        assert_not_sent(refresh(keap_at(server, authorities_file=trusted), "r"), server)


@pytest.mark.proves("F100")
def test_the_authority_behind_a_refused_certificate_is_named(caplog):
    with tls_server(trustme.CA(organization_name="Acme Inspection"), "localhost") as server:
        greeting = check_token_endpoint(keap_at(server))
        refresh(keap_at(server), "r")

    assert greeting.problem.startswith("Its certificate was not accepted: ")
    assert "issued by O = Acme Inspection" in greeting.problem
    assert "issued by O = Acme Inspection" in caplog.text


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


@pytest.mark.parametrize("script", [drip_everything, never_answer])
def test_the_deadline_holds_inside_tls(authority, short_deadline, script):
    with tls_server(authority, "localhost", script=script) as server:
        assert_in_doubt(refresh(keap_at(server), "r"))


def test_a_tls_handshake_that_hangs_is_cut_off_and_known_not_sent(server, keap, short_deadline):
    ended = []
    server.script = lambda _: ended.append(server.is_over.wait(30))

    classified = refresh(replace(keap, token_url=f"https://localhost:{server.port}/token"), "r")

    assert ended == []
    assert_not_sent(classified, server)


@pytest.mark.proves("R17")
@pytest.mark.parametrize("ask", [refresh, exchange_code])
def test_plain_http_is_refused_before_anything_is_sent(server, keap, monkeypatch, ask):
    monkeypatch.delenv("OAUTHLIB_INSECURE_TRANSPORT")

    classified = ask(keap, "the-presented-secret")

    assert_not_sent(classified, server)
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


# A proxy


class Proxy(RawServer):
    """A proxy that leads every connection to one server, whatever name it is asked for."""

    def __init__(self, port, answer=b"HTTP/1.1 200 Connection established\r\nContent-Length: 0\r\n\r\n", tls=None):
        super().__init__(self._lead, tls)
        self._port, self._answer = port, answer

    def _lead(self, connection):
        connection.read_request()
        connection.send(self._answer)
        if b" 200 " in self._answer:
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                connection.join(server)


@pytest.fixture
def far_away(authority):
    """Give a server that is Keap's by its certificate, and that only a proxy leads to."""
    with tls_server(authority, "api.infusionsoft.com") as server:
        yield server


def keap_behind(server, proxy_url):
    return keap_at(server, token_url="https://api.infusionsoft.com/token", proxy=proxy_url)


@pytest.mark.proves("F100")
@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_keap_is_reached_through_a_proxy_that_sees_no_secret(far_away, is_tls):
    context, company = None, trustme.CA()
    if is_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        company.issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(far_away.port, tls=context) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        keap = keap_behind(far_away, f"{'https' if is_tls else 'http'}://someone:proxy-password@{address}")
        keap = replace(keap, further_authorities=company.cert_pem.bytes())

        assert refresh(keap, "the-presented-secret").verdict is Verdict.GRANTED

    first, headers, _ = parsed(proxy.requests[0])
    assert first == "CONNECT api.infusionsoft.com:443 HTTP/1.1"
    assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")) == b"someone:proxy-password"
    assert "authorization" not in headers
    assert b"the-presented-secret" not in b"".join(proxy.requests)
    assert b"proxy-password" not in b"".join(far_away.requests)


@pytest.mark.proves("F100")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "CONNECT tunnel failed, response 407",
        ),
        (b"", "Proxy CONNECT aborted"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "Invalid response header"),
    ],
    ids=["407", "closed", "no proxy"],
)
def test_nothing_is_sent_where_a_proxy_opens_no_way(far_away, server, answer, words):
    with Proxy(server.port, answer) as proxy:
        classified = refresh(keap_behind(far_away, f"http://a:proxy-password@127.0.0.1:{proxy.port}"), "r")

    assert_not_sent(classified, far_away)
    assert words in classified.reason
    assert "proxy-password" not in classified.reason


@pytest.mark.proves("F100", "F20")
@pytest.mark.parametrize("is_proxys", [True, False], ids=["of the proxy", "of Keap"])
def test_a_certificate_that_is_refused_is_said_to_be_that_of_the_proxy_or_of_keap(authority, is_proxys):
    unknown, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (unknown if is_proxys else authority).issue_cert("127.0.0.1").configure_cert(context)
    with tls_server(authority if is_proxys else unknown, "api.infusionsoft.com") as far_away:
        with Proxy(far_away.port, tls=context) as proxy:
            keap = keap_behind(far_away, f"https://127.0.0.1:{proxy.port}")
            classified, found = refresh(keap, "r"), check_token_endpoint(keap)
        assert_not_sent(classified, far_away)

    assert ("the certificate of the proxy was not accepted" in classified.reason) is is_proxys
    assert found.problem.startswith("It cannot be reached:" if is_proxys else "Its certificate was not accepted:")


@pytest.mark.proves("F100", "F16")
@pytest.mark.parametrize("proxy", [f"http://a:proxy-password@{UNKNOWN_NAME}:3128", "http://127.0.0.1:{free}"])
def test_a_proxy_that_is_not_there_is_named_and_nothing_is_sent(far_away, server, proxy):
    server.close()

    classified = refresh(keap_behind(far_away, proxy.format(free=server.port)), "r")

    assert_not_sent(classified, far_away)
    assert f"Could not resolve proxy: {UNKNOWN_NAME}" in classified.reason or "Connection refused" in classified.reason
    assert "proxy-password" not in classified.reason


def test_this_machine_itself_is_reached_past_the_proxy(server, keap):
    server.script = grant
    with RawServer() as proxy:
        assert refresh(replace(keap, proxy=proxy.url), "r").verdict is Verdict.GRANTED

    assert proxy.connections == []


# What went wrong


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (lambda connection: connection.read_request(), "No usable answer came from Keap: Empty reply from server."),
        (reset_after_reading, "No usable answer came from Keap: Recv failure: Connection reset by peer."),
        (never_answer, "No usable answer came from Keap: it was not complete within the deadline."),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n"), "No usable answer came from Keap: Received HTTP/0.9 when not allowed."),
        (answering(http(BODY)[:-20]), "No usable answer came from Keap: it ended 20 bytes too early."),
    ],
    ids=["closed", "reset", "silent", "not http", "cut"],
)
def test_the_reason_says_how_the_answer_was_lost(server, keap, short_deadline, script, words):
    server.script = script

    assert refresh(keap, "r").reason == words


def test_the_reason_says_why_keap_could_not_be_reached(server, keap):
    refused = replace(keap, token_url=f"http://127.0.0.1:{free_port()}/token")
    no_tls = replace(keap, token_url=server.url.replace("http:", "https:"))
    server.script = lambda connection: connection.send(b"220 mail.example ESMTP\r\n")

    assert "Could not connect to server (Connection refused)" in refresh(refused, "r").reason
    assert "TLS connect error" in refresh(no_tls, "r").reason
    assert "wrong version number" in refresh(no_tls, "r").reason


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
        assert not refresh(replace(keap, token_url=f"https://{UNKNOWN_NAME}/token"), "r").was_sent  # not on loopback

    assert proxy.connections == []
    assert base64.b64encode(b"stranger:netrc-password") not in b"".join(server.requests)


def test_each_call_has_a_connection_of_its_own(server, keap):
    server.script = answering(http(BODY).replace(b"Connection: close", b"Connection: keep-alive"))

    refresh(keap, "r")
    refresh(keap, "r")

    assert len(server.connections) == 2


@pytest.mark.proves("R20")
def test_questions_about_the_person_have_a_deadline_too(server, keap, monkeypatch):
    monkeypatch.setattr(user_info, "DEADLINE_SECONDS", 0.2)
    last_check, lengths = Call.last_check, []
    monkeypatch.setattr(
        Call, "last_check", lambda call, *_: lengths.append(call.ends - seconds_since_boot()) or last_check(call)
    )
    server.script = never_answer

    found = ask_identity(keap, "the-access-token", "ab123")

    assert (found.tenant_id, found.keap_user_id) == ("ab123", None)
    assert len(server.connections) == len(lengths) == 4
    assert max(lengths) <= 0.2
