"""Which addresses are one client: an IPv4 address, and all that one IPv6 /64 can write."""

import pytest

from duly.kit.addresses import network_of
from tests.fixtures.application import PASSWORD, Api, StartApp
from tests.fixtures.stored import Stored

SAME = [
    ["192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:0207", "0:0:0:0:0:ffff:192.0.2.7"],
    [
        "2001:db8:0:1::1", "2001:0DB8:0000:0001:0000:0000:0000:0001", "2001:db8:0:1:ffff:ffff:ffff:ffff",
        "2001:db8:0:1:1:2:3:4", "2001:db8:0:1::192.0.2.7", "2001:db8:0:1::",
    ],
    ["2001:db8:0:2::1", "2001:db8:0:2:8000::"], ["192.0.2.8"], ["::192.0.2.7", "::1"], ["fe80::1%eth0", "fe80::2"],
    ["unknown"], [None, ""],
]  # fmt: skip


@pytest.mark.covers("A038")
def test_spellings_of_one_network_are_one_and_others_are_others() -> None:
    found = [{network_of(address) for address in addresses} for addresses in SAME]
    assert all(len(networks) == 1 for networks in found), found
    assert len(set().union(*found)) == len(SAME)
    assert network_of("2001:db8::5") == "2001:db8::/64"
    assert network_of("::ffff:192.0.2.7") == "192.0.2.7"


async def statuses(api: Api, addresses: list[str]) -> list[int]:
    body = {"email": "nobody@example.com", "password": "wrong-orbit-92"}
    return [
        (await api.client.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": address})).status_code
        for address in addresses
    ]


@pytest.mark.covers("A092", "A038")
async def test_guesses_from_one_network_count_together_however_it_is_written(start_app: StartApp) -> None:
    api = await start_app(trusted_proxies="127.0.0.1")
    assert await statuses(api, [*SAME[0], "192.0.2.7:51000", "192.0.2.7"]) == [401] * 5 + [423]
    six = [*SAME[1][:4], "[2001:db8:0:1::9]:443", "2001:db8:0:1::77"]
    assert await statuses(api, six) == [401] * 5 + [423]
    assert await statuses(api, ["192.0.2.8", "2001:db8:0:2::1"]) == [401, 401]
    # What the caller wrote in front of the proxy's own word is nobody's address.
    assert await statuses(api, ["203.0.113.1, 192.0.2.7", "203.0.113.2, ::ffff:192.0.2.7"]) == [423, 423]


@pytest.mark.covers("A092", "A038")
async def test_a_forged_address_helps_nobody_who_is_no_trusted_proxy(start_app: StartApp, stored: Stored) -> None:
    for settings in ({}, {"trusted_proxies": "10.0.0.0/8"}):
        api = await start_app(**settings)
        email = f"{len(settings)}@example.com"
        person = await api.register(email)
        for number in range(7):
            headers = {"X-Forwarded-For": f"203.0.113.{number}", "Forwarded": f"for=203.0.113.{number}",
                       "X-Real-IP": f"203.0.113.{number}", "User-Agent": f"agent {number}"}  # fmt: skip
            body = {"email": email, "password": PASSWORD if number == 6 else "wrong-orbit-92"}
            answer = await api.client.post("/api/v1/auth/login", json=body, headers=headers)
            assert answer.status_code == (401 if number < 5 else 423), number
        [session] = (await person.get("/auth/sessions")).json()["items"]
        assert session["ip_address"] == "127.0.0.1"
    assert await stored.value("SELECT count(*) FROM login_failures") == 4
