"""From which address a request counts as coming; tests/test_proxies.py asks the same behind real proxies."""

import logging
from pathlib import Path

import pytest

from keap_connect.health.network import mark_of
from keap_connect.settings import Settings
from keap_connect.web.network import ClientAddress, read_address
from tests.conftest import SECRET_KEY, TOKEN_KEY

PEER = "10.0.0.1"


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Give the settings of an app behind a number of proxies, by default one."""
    environ = {"SECRET_KEY": SECRET_KEY, "TOKEN_KEYS": TOKEN_KEY, "INSTANCE_PATH": str(tmp_path)}
    return Settings.from_env({**environ, "TRUSTED_PROXIES": str(getattr(request, "param", 1))})


def address_of(layer: ClientAddress, **wsgi_environ: str) -> str:
    """Return what the app is told."""
    told: list[str] = []
    layer._app = lambda environ, _start: told.append(environ["REMOTE_ADDR"]) or []
    layer({"REMOTE_ADDR": PEER, "PATH_INFO": "/", **wsgi_environ}, lambda *_: None)
    return told[0]


@pytest.mark.proves("R98")
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9:567 ", "203.0.113.9"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:567", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[::ffff:203.0.113.9]:567", "203.0.113.9"),
        ("", None),
        ("unknown", None),
        ("unix:", None),
        ("_hidden", None),
        ("203.0.113", None),
        ("203.0.113.9 OR 1=1", None),
        ("1" * 5000, None),
    ],
)
def test_an_address_is_read_without_port_and_zone(text: str, address: str | None):
    assert read_address(text) == address


@pytest.mark.proves("R98", "F66")
@pytest.mark.parametrize(
    ("settings", "forwarded", "address"),
    [
        (0, "203.0.113.9", PEER),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.1, 203.0.113.9:567", "203.0.113.9"),
        (2, "198.51.100.1, 203.0.113.9,10.0.0.2", "203.0.113.9"),
        (2, "203.0.113.9", PEER),
        (1, "198.51.100.1, garbage", PEER),
        (1, '"198.51.100.1, 203.0.113.9', "203.0.113.9"),  # a quotation mark that the client opened
        (1, "198.51.100.1,", PEER),
    ],
    indirect=["settings"],
)
def test_the_entry_of_our_outermost_proxy_is_believed_and_no_other(settings: Settings, forwarded: str, address: str):
    assert address_of(ClientAddress(None, settings), HTTP_X_FORWARDED_FOR=forwarded) == address


@pytest.mark.proves("R98")
@pytest.mark.parametrize(("peer", "address"), [("::ffff:10.0.0.1", PEER), ("", ""), ("/run/app.sock", "")])
def test_without_the_header_the_peer_counts_if_it_has_an_address(settings: Settings, peer: str, address: str):
    assert address_of(ClientAddress(None, settings), REMOTE_ADDR=peer) == address


@pytest.mark.proves("R98")
def test_a_missing_address_is_reported_once_and_left_for_the_doctor(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    layer = ClientAddress(None, settings)

    address_of(layer, PATH_INFO="/healthz")
    address_of(layer, HTTP_X_FORWARDED_FOR="203.0.113.9")
    assert (caplog.records, mark_of(settings).exists()) == ([], False)

    for _ in range(3):
        address_of(layer, PATH_INFO="/signin")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert mark_of(settings).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("settings", [0], indirect=True)
def test_without_proxies_nothing_is_missing(settings: Settings, caplog: pytest.LogCaptureFixture):
    address_of(ClientAddress(None, settings))

    assert (caplog.records, mark_of(settings).exists()) == ([], False)
