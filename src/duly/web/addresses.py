"""Whose request it is when proxies stand in front: only what a trusted proxy says about its caller counts."""

from collections.abc import MutableMapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Scope = MutableMapping[str, Any]

# Header values come from strangers: what is remembered, and how far a chain is followed, has to end somewhere.
_MAX_KNOWN = 4096
_MAX_KEPT_LENGTH = 256
_MAX_HOPS = 32


def parse_address(text: str) -> Address | None:
    """The address in `text`, with or without a port or brackets; an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4.

    None for anything else, such as `unknown` or a host name.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class ClientAddresses:
    """Finds the client's address and scheme behind the proxies in `trusted` (addresses or networks).

    Raises ValueError that names the first entry which is neither.
    """

    __slots__ = ("_known", "_networks", "active")

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = tuple(_network(entry) for entry in trusted)
        self._known: dict[tuple[str, bytes, bytes], tuple[str | None, str | None]] = {}
        self.active = bool(self._networks)
        """False without proxies: then the caller need not ask at all."""

    def apply(self, scope: Scope) -> None:
        """Rewrite `client` and `scheme` of an ASGI scope, when its peer is trusted."""
        client = scope.get("client")
        if not client:
            return
        forwarded = protocols = b""
        for name, value in scope["headers"]:
            # A repeated header is one list (RFC 9110 §5.3).
            if name == b"x-forwarded-for":
                forwarded = b"%b,%b" % (forwarded, value) if forwarded else value
            elif name == b"x-forwarded-proto":
                protocols = b"%b,%b" % (protocols, value) if protocols else value
        key = (client[0], forwarded, protocols)
        found = self._known.get(key) or self._find(key)
        if found[0] is not None:
            scope["client"] = (found[0], 0)
        if found[1] is not None:
            scope["scheme"] = found[1] if scope["type"] == "http" else found[1].replace("http", "ws")

    def _find(self, key: tuple[str, bytes, bytes]) -> tuple[str | None, str | None]:
        """The client's address and scheme, each None where the connection's own stands."""
        found: tuple[str | None, str | None] = (None, None)
        peer = parse_address(key[0])
        if peer is not None and self._trusts(peer):
            forwarded, protocols = _members(key[1]), _members(key[2])
            position, address = self._walk(peer, forwarded)
            # One scheme per hop names the client's; otherwise the nearest proxy speaks for all.
            named = (protocols[position] if len(protocols) == len(forwarded) else protocols[-1]) if protocols else ""
            scheme = named.lower() if named.lower() in ("http", "https") else None
            found = (None if address is peer else str(address), scheme)
        if len(key[1]) + len(key[2]) <= _MAX_KEPT_LENGTH:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _walk(self, peer: Address, forwarded: Sequence[str]) -> tuple[int, Address]:
        """From the right, past the proxies we trust: everything to the left of the first stranger may be made up."""
        found, position = peer, -1
        for index in range(len(forwarded) - 1, max(-1, len(forwarded) - 1 - _MAX_HOPS), -1):
            address = parse_address(forwarded[index])
            if address is None:
                break
            found, position = address, index
            if not self._trusts(address):
                break
        return position, found

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _network(entry: str) -> Network:
    try:
        network = ip_network(entry.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is neither an address nor a network such as 10.0.0.0/8") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return network


def _members(value: bytes) -> list[str]:
    return [part.strip() for part in value.decode("latin-1").split(",")] if value else []
