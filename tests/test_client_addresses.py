"""Whose request it is behind proxies: nothing that a stranger can write decides it."""

from typing import Any

import pytest

from duly.web.addresses import ClientAddresses, parse_address

LAN = ["127.0.0.1", "10.0.0.0/8"]
CASES = [
    ([], "192.0.2.7", "https", "127.0.0.1 http"),
    (["10.0.0.0/8"], "192.0.2.7", "https", "127.0.0.1 http"),
    (["127.0.0.1"], "", "", "127.0.0.1 http"),
    (["127.0.0.1"], "192.0.2.7", "https", "192.0.2.7 https"),
    (["127.0.0.1"], "203.0.113.9, 192.0.2.7", "HTTPS", "192.0.2.7 https"),
    (["127.0.0.1"], "unknown", "gopher", "127.0.0.1 http"),
    (["127.0.0.1"], "::ffff:192.0.2.7", "http", "192.0.2.7 http"),
    (["127.0.0.1"], "192.0.2.7:5123", "", "192.0.2.7 http"),
    (["::ffff:127.0.0.1"], "[2001:db8::1]:443", "https", "2001:db8::1 https"),
    (["::ffff:127.0.0.0/104"], "2001:db8::1", "https", "2001:db8::1 https"),
    (LAN, "203.0.113.9, 192.0.2.7, 10.1.2.3", "https", "192.0.2.7 https"),
    (LAN, "192.0.2.7, 10.1.2.3", "https, http", "192.0.2.7 https"),
    (LAN, "203.0.113.9, 192.0.2.7", "https, http", "192.0.2.7 http"),
    (LAN, "192.0.2.7, junk, 10.1.2.3", "https", "10.1.2.3 https"),
    (LAN, "10.9.9.9, 10.1.2.3", "https", "10.9.9.9 https"),
]


def scope_of(forwarded: str, proto: str, peer: str = "127.0.0.1") -> dict[str, Any]:
    headers = [(b"host", b"x"), (b"x-forwarded-for", forwarded.encode()), (b"x-forwarded-proto", proto.encode())]
    return {"type": "http", "client": (peer, 40000), "scheme": "http", "headers": [pair for pair in headers if pair[1]]}


@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(("trusted", "forwarded", "proto", "expected"), CASES)
def test_the_rightmost_address_that_no_trusted_proxy_vouches_for(
    trusted: list[str], forwarded: str, proto: str, expected: str, peer: str
) -> None:
    addresses = ClientAddresses(trusted)
    for _ in range(2):  # the second answer comes from what is remembered
        scope = scope_of(forwarded, proto, peer)
        addresses.apply(scope)
        assert f"{scope['client'][0]} {scope['scheme']}" == expected.replace("127.0.0.1", peer)


def test_websockets_have_their_own_schemes() -> None:
    scope = scope_of("192.0.2.7", "https") | {"type": "websocket", "scheme": "ws"}
    ClientAddresses(["127.0.0.1"]).apply(scope)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.7", 0), "wss")


def test_without_a_peer_nothing_is_changed() -> None:
    scope = scope_of("192.0.2.7", "https") | {"client": None}
    ClientAddresses(["0.0.0.0/0"]).apply(scope)
    assert (scope["client"], scope["scheme"]) == (None, "http")


def test_a_chain_is_followed_only_so_far() -> None:
    scope = scope_of("203.0.113.9" + ", 10.0.0.1" * 40, "")
    ClientAddresses(LAN).apply(scope)
    assert scope["client"] == ("10.0.0.1", 0)


def test_wrong_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'proxy\.local' is neither"):
        ClientAddresses(["10.0.0.1", "proxy.local"])
    assert parse_address("example.com") is None
