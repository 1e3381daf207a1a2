"""What counts as one client where requests are counted by network address."""

from ipaddress import IPv6Address, IPv6Network

PREFIX_LENGTH = 64  # what a provider gives to one customer, who can use any address in it


def network_of(address: str | None) -> str:
    """Return the name under which a client address is counted: an IPv6 address by its /64, any other as it is."""
    if not address:
        return "unknown"
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), PREFIX_LENGTH), strict=False))
