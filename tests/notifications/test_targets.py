"""No webhook reaches an address that its sender, and not its receiver, can reach (R84)."""

import pytest

from keap_connect.notifications import webhooks
from keap_connect.notifications.endpoints import add_endpoint, may_connect, send_test
from tests.keap.raw_server import RawServer, answering, http
from tests.notifications.conftest import deliveries, send_due
from tests.support.engines import on_sqlite

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
PRIVATE = [
    *("127.0.0.1", "127.1.2.3", "10.0.0.7", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("::1", "fd00::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
]
NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "168.63.129.16"),
    *("100.100.100.200", "::", "::2", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254"),
    *("2002:7f00:1::", "2002:808:808::", "2001::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1"),
]


@on_sqlite
@pytest.mark.proves("R84")
def test_only_public_addresses_are_open_and_private_ones_if_the_operator_says_so():
    def opened(addresses: list[str], **allowed: bool) -> list[str]:
        return [one for one in addresses if may_connect(one, **allowed)]

    everything = [*PUBLIC, *PRIVATE, *NEVER]
    assert opened(everything, is_https=True, allows_private=False) == PUBLIC
    assert opened(everything, is_https=True, allows_private=True) == [*PUBLIC, *PRIVATE]
    assert opened(everything, is_https=False, allows_private=True) == PRIVATE
    assert opened(everything, is_https=False, allows_private=False) == []


@on_sqlite
@pytest.mark.proves("R84")
@pytest.mark.parametrize("environ", [{"WEBHOOK_PRIVATE_TARGETS": ""}], indirect=True)
@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "0", "[::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "localhost.", "169.254.169.254"),
    ],
)
def test_no_spelling_of_this_machine_gets_a_connection(host: str):
    with RawServer() as server:
        add_endpoint(f"https://{host}:{server.port}/hook", None, None, "x")
        send_test(1)

        send_due()

        server.close()
        assert server.connections == []
    (row,) = deliveries()
    assert row.status == "given_up"
    assert "is not allowed for webhooks." in row.answer
    is_never_open = host in {"0", "[::]", "169.254.169.254"}
    assert ("WEBHOOK_PRIVATE_TARGETS" in row.answer) is not is_never_open


@on_sqlite
@pytest.mark.proves("R84")
def test_no_proxy_of_the_machine_makes_the_connection(monkeypatch: pytest.MonkeyPatch):
    with RawServer() as proxy, RawServer(answering(http(b""))) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        add_endpoint(f"http://127.0.0.1:{server.port}/hook", None, None, "x")
        send_test(1)

        send_due()

    assert ([row.status for row in deliveries()], proxy.connections) == (["sent"], [])


@on_sqlite
@pytest.mark.proves("R84")
@pytest.mark.parametrize("environ", [{"WEBHOOK_PRIVATE_TARGETS": ""}], indirect=True)
def test_the_address_that_counts_is_the_one_that_the_socket_goes_to(monkeypatch: pytest.MonkeyPatch):
    """A name that resolves to a public address when it is checked, and to a private one when it is used."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    answers = iter([True, False])
    monkeypatch.setattr(webhooks, "may_connect", lambda *_, **__: next(answers))
    target = webhooks._Target(is_https=True)

    class Address:
        family, socktype, protocol, addr = 2, 1, 6, ("8.8.8.8", 443)

    opened = target.open(0, Address)
    assert not isinstance(opened, int)
    assert target.open(0, Address) == -1
    target.close()
    assert "8.8.8.8" in target.refused
