"""Addresses of clients, as the networks that one client can have."""

from ipaddress import IPv6Address, ip_address, ip_network


def network_of(address: str | None) -> str:
    """An IPv4 address itself, an IPv6 address's /64: whoever has one address of it has them all.

    An IPv4 address written as IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address; what is no address is itself.
    """
    if address is None:
        return ""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
