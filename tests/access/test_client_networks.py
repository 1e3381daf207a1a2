"""What counts as one client."""

import pytest

from keap_connect.access.rate_limits import network_of


@pytest.mark.proves("R98")
@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_an_ipv6_address_is_counted_by_its_64_and_any_other_as_it_is(address: str | None, network: str):
    assert network_of(address) == network
