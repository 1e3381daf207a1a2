"""Where webhooks may go: decided by the address that a connection is about to be made to, not by the name.

So neither a name that resolves to another address the next time, nor an odd spelling of one, gets around it.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

NAT64 = ip_network("64:ff9b::/96")
# Python counts some of these as global; the last three are metadata services of clouds.
REFUSED = [
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
] + [ip_network(text) for text in ("168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128")]
UNICAST = ip_network("2000::/3")
PRIVATE = [
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7")
]


def may_connect(text: str, *, is_https: bool, allows_private: bool) -> bool:
    """Whether a webhook may go to this numeric address; without TLS to a private one alone."""
    address = _address(text)
    if is_private(text):
        return allows_private
    is_refused = address.is_multicast or any(address in network for network in REFUSED)
    return not is_refused and is_https and address.is_global and (address.version == 4 or address in UNICAST)


def is_private(text: str) -> bool:
    """Whether only the setting opens this numeric address."""
    address = _address(text)
    is_refused = any(address in network for network in REFUSED)
    return not is_refused and any(address in network for network in PRIVATE)


def may_use_port(port: int, *, is_https: bool) -> bool:
    return port == (443 if is_https else 80) or 1024 <= port <= 65_535


def _address(text: str) -> IPv4Address | IPv6Address:
    """Return the address; of an IPv6 one, the IPv4 address to which a translator or this machine would connect."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
