"""Passwords: both schemes verify, weak hashes are replaced, the loop never waits, and unknown names cost the same."""

import asyncio
import base64
import contextlib
import hashlib
import os
import statistics
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import argon2
import bcrypt
import pytest

from duly.errors import Unavailable
from duly.kit.passwords import PasswordHasher, Verdict, spare_cores

PASSWORD = "correct horse battery staple"
OK = Verdict(ok=True, replacement=None)
NOT_OK = Verdict(ok=False, replacement=None)


@pytest.fixture(scope="module")
def argon() -> Iterator[PasswordHasher]:
    with closing(PasswordHasher("argon2id", 10)) as hasher:
        yield hasher


@pytest.fixture(scope="module")
def blow() -> Iterator[PasswordHasher]:
    with closing(PasswordHasher("bcrypt", 10)) as hasher:
        yield hasher


@pytest.fixture(params=["argon2id", "bcrypt"])
def hasher(request: pytest.FixtureRequest, argon: PasswordHasher, blow: PasswordHasher) -> PasswordHasher:
    return argon if request.param == "argon2id" else blow


@pytest.mark.covers("A029", "A081", "B020", "D003", "D016")
async def test_hashes_say_their_scheme_and_cost(argon: PasswordHasher, blow: PasswordHasher) -> None:
    assert (await argon.hash(PASSWORD)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await blow.hash(PASSWORD)).startswith("$2b$10$")


@pytest.mark.covers("A029", "A081")
async def test_two_hashes_of_one_password_differ_and_both_verify(hasher: PasswordHasher) -> None:
    first, second = await asyncio.gather(hasher.hash(PASSWORD), hasher.hash(PASSWORD))
    assert first != second
    assert PASSWORD not in first
    assert [await hasher.verify(PASSWORD, stored) for stored in (first, second)] == [OK, OK]
    assert await hasher.verify(PASSWORD + " ", first) == NOT_OK
    assert await hasher.verify("", first) == NOT_OK


@pytest.mark.covers("A029", "B020")
async def test_each_scheme_verifies_the_other_and_replaces_it(argon: PasswordHasher, blow: PasswordHasher) -> None:
    for old, new, start in ((argon, blow, "$2b$10$"), (blow, argon, "$argon2id$")):
        stored = await old.hash(PASSWORD)
        verdict = await new.verify(PASSWORD, stored)
        assert verdict.ok
        assert verdict.replacement is not None
        assert verdict.replacement.startswith(start)
        assert await new.verify(PASSWORD, verdict.replacement) == OK
        assert await new.verify("wrong", stored) == NOT_OK


def by_argon2(**options: object) -> str:
    settings = {"time_cost": 2, "memory_cost": 19456, "parallelism": 1} | options
    return argon2.PasswordHasher(**settings).hash(PASSWORD)  # type: ignore[arg-type]


def by_bcrypt(rounds: int, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(rounds, prefix)).decode()


async def test_weaker_hashes_are_replaced_and_stronger_ones_stay(argon: PasswordHasher, blow: PasswordHasher) -> None:
    weak = [
        by_argon2(time_cost=1), by_argon2(memory_cost=8192), by_argon2(hash_len=16), by_argon2(type=argon2.Type.I),
        by_argon2(type=argon2.Type.D),
    ]  # fmt: skip
    strong = [by_argon2(), by_argon2(time_cost=3), by_argon2(memory_cost=65536, parallelism=4)]
    for stored in weak:
        verdict = await argon.verify(PASSWORD, stored)
        assert verdict.ok
        assert verdict.replacement is not None
    assert [await argon.verify(PASSWORD, stored) for stored in strong] == [OK] * 3
    assert (await blow.verify(PASSWORD, by_bcrypt(9))).replacement is not None
    assert (await blow.verify(PASSWORD, by_bcrypt(10, b"2a"))).replacement is not None
    assert [await blow.verify(PASSWORD, by_bcrypt(rounds)) for rounds in (10, 11)] == [OK, OK]


async def test_every_character_of_a_long_password_counts(hasher: PasswordHasher) -> None:
    for password in ("a" * 72, "a" * 73, "a" * 128, "😀" * 128, "a" * 71 + "é"):
        stored = await hasher.hash(password)
        assert await hasher.verify(password, stored) == OK
        assert await hasher.verify(password[:-1], stored) == NOT_OK
        assert await hasher.verify(password[:-1] + "b", stored) == NOT_OK


async def test_the_stand_in_for_a_long_password_is_no_plain_digest(blow: PasswordHasher) -> None:
    long = "a" * 100
    stored = await blow.hash(long)
    digest = hashlib.sha256(long.encode()).digest()
    for guess in (digest.hex(), base64.b64encode(digest).decode()):
        assert await blow.verify(guess, stored) == NOT_OK


async def test_two_keyboards_spell_one_password(hasher: PasswordHasher) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Žluťoučký kůň") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert await hasher.verify(decomposed, await hasher.hash(composed)) == OK
    assert await hasher.verify(composed, await hasher.hash(decomposed)) == OK


async def test_nul_is_a_character_like_any_other(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("abc\0def")
    assert await hasher.verify("abc\0def", stored) == OK
    assert await hasher.verify("abc", stored) == NOT_OK
    assert await hasher.verify("abc\0xyz", stored) == NOT_OK


async def test_half_a_character_is_refused_without_showing_the_password(hasher: PasswordHasher) -> None:
    with pytest.raises(ValueError, match="not valid Unicode") as caught:
        await hasher.hash("canary\ud800")
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert await hasher.verify("\ud800", await hasher.hash("x")) == NOT_OK


TAIL = "$c29tZXNhbHQ$" + "A" * 43
GARBAGE = [
    "", "x", PASSWORD, "\0", "\ud800", "é" * 60, "$", "$$$$$", "$2b$", "$2b$10$", "A" * 100_000,
    "$2b$10$" + "z" * 53, "$2b$99$" + "a" * 53, "$2b$03$" + "a" * 53, "$2b$31$" + "a" * 53, "$2b$10$" + "a" * 52,
    "$2b$10$" + "é" * 53, "$2b$1\uff10$" + "a" * 53, "$argon2id$", "$argon2id$v=19$m=1,t=1",
    "$argon2id$v=19$m=19456,t=2,p=1$c29t$AAAA",
    "$argon2id$v=19$m=99999999,t=1,p=1" + TAIL, "$argon2id$v=19$m=19456,t=99999999,p=1" + TAIL,
    "$argon2id$v=19$m=19456,t=2,p=999" + TAIL, "$argon2id$v=19$m=0,t=0,p=0" + TAIL, "$argon2id$v=19$m=8,t=1,p=4" + TAIL,
    "$argon2id$v=99$m=19456,t=2,p=1" + TAIL, "$argon2xx$v=19$m=19456,t=2,p=1" + TAIL,
    "$argon2id$v=19$m=19456,t=2,p=1" + TAIL[:-2], "$1$abc$def", "$6$salt$hash", "pbkdf2_sha256$1$a$b", "$scrypt$16$a",
]  # fmt: skip


@pytest.mark.parametrize("stored", GARBAGE, ids=range(len(GARBAGE)))
async def test_a_damaged_hash_is_not_ok_and_no_accident(argon: PasswordHasher, stored: str) -> None:
    async with asyncio.timeout(5):
        assert await argon.verify(PASSWORD, stored) == NOT_OK


@pytest.mark.covers("A034")
async def test_an_unknown_account_costs_what_a_known_one_costs(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(PASSWORD)
    times: dict[str, list[float]] = {"known": [], "unknown": [], "damaged": []}
    for _ in range(15):
        for name, kept in (("known", stored), ("unknown", None), ("damaged", "x")):
            start = time.perf_counter()
            assert await hasher.verify("wrong", kept) == NOT_OK
            times[name].append(time.perf_counter() - start)
    known, unknown, damaged = (statistics.median(values) for values in times.values())
    assert 0.5 < unknown / known < 2
    assert 0.5 < damaged / known < 2


@pytest.mark.covers("C104")
async def test_the_loop_turns_while_passwords_are_checked() -> None:
    with closing(PasswordHasher("bcrypt", 11)) as hasher:
        stored = await hasher.hash(PASSWORD)
        start = time.perf_counter()
        checks = asyncio.gather(*(hasher.verify(PASSWORD, stored) for _ in range(8)))
        turns = 0
        while not checks.done():
            await asyncio.sleep(0.001)
            turns += 1
        elapsed = time.perf_counter() - start
    assert checks.result() == [OK] * 8
    # Eight checks on the loop would leave it eight turns; in threads it makes one every few milliseconds.
    assert turns > elapsed * 50


async def test_beyond_the_queue_the_answer_is_busy_and_room_comes_back() -> None:
    with closing(PasswordHasher("bcrypt", 10, threads=1, queue=3)) as hasher:
        stored = await hasher.hash(PASSWORD)
        gate = threading.Event()
        busy = asyncio.create_task(hasher.run(gate.wait))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.2, gate.set)
        results = await asyncio.gather(*(hasher.verify(PASSWORD, stored) for _ in range(9)), return_exceptions=True)
        assert await busy
        refused = [result for result in results if isinstance(result, Unavailable)]
        assert (results.count(OK), len(refused)) == (3, 6)
        assert {(refusal.code, refusal.retry_after) for refusal in refused} == {("BUSY", 1)}
        assert await hasher.verify(PASSWORD, stored) == OK


async def test_a_client_that_hangs_up_frees_its_place_when_the_work_ends() -> None:
    with closing(PasswordHasher("bcrypt", 11, threads=1, queue=1)) as hasher:
        stored = await hasher.hash(PASSWORD)
        begun, gate = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> bool:
            loop.call_soon_threadsafe(begun.set)
            return gate.wait()

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(hasher.run(work))]
        await begun.wait()
        tasks.append(asyncio.create_task(hasher.verify(PASSWORD, stored)))
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One was waiting and is gone; the other still runs, and holds its place.
        waiting = asyncio.create_task(hasher.verify(PASSWORD, stored))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await hasher.verify(PASSWORD, stored)
        gate.set()
        assert await waiting == OK
        assert await asyncio.gather(*(hasher.verify(PASSWORD, stored) for _ in range(2))) == [OK, OK]


async def test_close_finishes_what_was_accepted_and_takes_no_more() -> None:
    hasher = PasswordHasher("bcrypt", 10, threads=1)
    stored = await hasher.hash(PASSWORD)
    accepted = [asyncio.create_task(hasher.verify(PASSWORD, stored)) for _ in range(3)]
    await asyncio.sleep(0)
    hasher.close()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await hasher.verify(PASSWORD, stored)
    assert await asyncio.gather(*accepted) == [OK] * 3


def test_one_core_is_left_for_the_loop() -> None:
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):
        cores = len(os.sched_getaffinity(0))
    assert spare_cores() == max(1, cores - 1)
