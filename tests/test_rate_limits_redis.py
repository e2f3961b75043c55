"""Limits that several processes share in Redis, and what is left of them when Redis fails."""

import asyncio
import contextlib
import os
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from duly.kit.clock import now
from duly.limits.limiter import Limiter, read_policy
from duly.settings import Settings
from tests.fixtures.application import Api, Person, StartApp, running
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import free_port
from tests.fixtures.stored import Stored
from tests.fixtures.wire import wire_to
from tests.test_rate_limits import ME, TASKS, check_too_many, once, standing

SERVER = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
URL = f"{SERVER}/12"
LIMITER = "duly.limits.limiter"
FALLS, RETURNS = "Redis does not count", "Redis counts rate limits again"
PATIENCE = 20.0
Attempt = Callable[[], Awaitable[None]]


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    """An empty database of the Redis server."""
    client = Redis.from_url(URL, decode_responses=True)
    try:
        await client.flushdb()
    except (RedisError, OSError) as error:
        skip_or_fail(f"Redis is needed at TEST_REDIS_URL ({error}): apt-get install redis-server, and start it")
    yield client
    await client.flushdb()
    await client.aclose()


def told(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How often the limiter has logged this."""
    return sum(record.name == LIMITER and record.getMessage().startswith(text) for record in caplog.records)


async def undisturbed(attempt: Attempt, caplog: pytest.LogCaptureFixture) -> None:
    """Run this while Redis answers in time; a busy machine can stall it for longer than a request may wait."""
    for _ in range(6):
        caplog.clear()
        try:
            await attempt()
        except AssertionError:
            if not told(caplog, FALLS):
                raise
        else:
            return
        await asyncio.sleep(1)
    pytest.fail("Redis was too slow each time")


async def statuses(person: Person, path: str, times: int) -> list[int]:
    return [(await person.get(path)).status_code for _ in range(times)]


@once
@pytest.mark.covers("D123", "A104", "A072")
async def test_two_processes_on_one_redis_count_together(
    start_app: StartApp, redis: Redis, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    rates = {"rate_limit_anonymous": "6/hour", "rate_limit_user": "6/hour", "rate_limit_login": "4/minute;5/hour"}
    apps = [await start_app(rate_limit_enabled=True, redis_url=URL, **rates) for _ in range(2)]
    events = "SELECT count(*) FROM audit_log WHERE event = 'rate.limited' AND actor_id = ?"

    async def attempt() -> None:
        await redis.flushdb()
        ann = await apps[0].register()
        for number in range(6):
            app, path = apps[number % 2], (TASKS, ME)[number // 2 % 2]
            for headers, status, policy in (({}, 401, "anonymous"), (ann.headers, 200, "user")):
                answer = await app.client.get(path, headers=headers)
                assert (answer.status_code, standing(answer)[:2]) == (status, (policy, 5 - number))
        for app in apps:
            for path in (TASKS, ME):
                assert check_too_many(await app.client.get(path, headers=ann.headers), "user") > 3500
                assert check_too_many(await app.client.get(path), "anonymous") > 3500
        assert await stored.value(events, ann.user_id) == 1

    await undisturbed(attempt, caplog)


@once
async def test_windows_and_waits_are_the_same_in_redis(
    start_app: StartApp, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_app(rate_limit_enabled=True, redis_url=URL, rate_limit_anonymous="4/hour;3/2 second")

    async def attempt() -> None:
        await redis.flushdb()
        assert [(await api.client.get(ME)).status_code for _ in range(3)] == [401] * 3
        waits = [check_too_many(await api.client.get(ME), "anonymous") for _ in range(3)]
        wait = waits[-1]
        assert wait <= 2
        await asyncio.sleep(wait)
        assert (await api.client.get(ME)).status_code == 401
        assert check_too_many(await api.client.get(ME), "anonymous") > 3500

    await undisturbed(attempt, caplog)


@once
async def test_the_batches_of_two_processes_add_up_to_the_limit(
    start_app: StartApp, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    apps = [await start_app(rate_limit_enabled=True, redis_url=URL, rate_limit_user="800/hour") for _ in range(2)]

    async def attempt() -> None:
        ann = await apps[0].register()
        way = {**ann.headers, "Accept-Encoding": "identity"}
        passed = 0
        for _ in range(42):
            crowd = [app.client.get(f"{TASKS}?limit=1", headers=way) for _ in range(10) for app in apps]
            passed += sum(answer.status_code == 200 for answer in await asyncio.gather(*crowd))
        assert passed == 800

    await undisturbed(attempt, caplog)


@once
async def test_what_redis_forgets_is_counted_anew_and_breaks_nothing(
    start_app: StartApp, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_app(rate_limit_enabled=True, redis_url=URL, rate_limit_anonymous="2/hour")

    async def attempt() -> None:
        for _ in range(2):
            await redis.flushdb()
            await redis.script_flush()
            assert [(await api.client.get(ME)).status_code for _ in range(3)] == [401, 401, 429]

    await undisturbed(attempt, caplog)


@once
@pytest.mark.covers("D112")
async def test_without_redis_at_its_address_each_process_counts_for_itself(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    for _ in range(2):
        api = await start_app(rate_limit_enabled=True, redis_url=url, rate_limit_user="5/hour",
                              rate_limit_anonymous="3/hour")  # fmt: skip
        ann = await api.register()
        crowd = await asyncio.gather(*(ann.get("/tasks") for _ in range(12)))
        assert sorted(answer.status_code for answer in crowd) == [200] * 5 + [429] * 7
        assert [(await api.client.get(TASKS)).status_code for _ in range(5)] == [401] * 3 + [429] * 2
    assert told(caplog, FALLS) == 2  # once a process, not once a request


@contextlib.asynccontextmanager
async def silent_server(*, closes: bool) -> AsyncIterator[tuple[str, list[float]]]:
    """The address of a server that never answers, or hangs up at once, and the moments at which it was tried."""
    tried: list[float] = []
    writers: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.append(time.monotonic())
        writers.append(writer)
        if closes:
            writer.transport.abort()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", tried
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@once
@pytest.mark.parametrize("closes", [False, True])
async def test_a_redis_that_does_not_answer_is_tried_seldom_and_costs_no_limit(
    closes: bool, start_app: StartApp
) -> None:
    async with silent_server(closes=closes) as (url, tried):
        begun = time.monotonic()
        api = await start_app(rate_limit_enabled=True, redis_url=url, rate_limit_user="30/hour")
        ann = await api.register()
        answers = await statuses(ann, "/tasks", 20) + await statuses(ann, "/auth/me", 20)
        assert answers == [200] * 30 + [429] * 10
        # The pauses double from a quarter of a second; an attempt may knock twice.
        took, most = time.monotonic() - begun, 2
        pause = 0.25
        while took > 0:
            took, pause, most = took - pause, min(5.0, pause * 2), most + 1
        assert len(tried) <= 2 * most, (len(tried), most)


async def test_while_redis_is_away_one_request_at_a_time_tries_it(caplog: pytest.LogCaptureFixture) -> None:
    policy = read_policy("user", "1000/hour")
    async with silent_server(closes=False) as (url, tried):
        limiter = Limiter(url)
        await limiter.hit(policy, "ann")
        assert len(tried) == 1
        await asyncio.sleep(0.3)
        crowd = await asyncio.gather(*(limiter.hit(policy, "ann") for _ in range(50)))
        assert all(one.allowed for one in crowd)
        assert len(tried) == 2
        await limiter.close()
    assert told(caplog, FALLS) == 1


@once
@pytest.mark.parametrize("fault", ["cut", "silence"])
@pytest.mark.covers("D112")
async def test_a_redis_that_goes_away_leaves_the_limits_and_counts_again_when_it_is_back(
    fault: str, start_app: StartApp, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with wire_to(URL) as (wire, url):
        api = await start_app(rate_limit_enabled=True, redis_url=url, rate_limit_user="5/hour",
                              rate_limit_anonymous="500/hour")  # fmt: skip
        ann = await api.register()
        assert await statuses(ann, "/tasks", 2) + await statuses(ann, "/auth/me", 1) == [200] * 3
        getattr(wire, fault)()
        assert await statuses(ann, "/tasks", 3) + await statuses(ann, "/auth/me", 2) == [200, 200, 429, 429, 429]
        assert told(caplog, FALLS) >= 1
        wire.mend()
        await until_redis_counts(api, redis, caplog)


async def until_redis_counts(api: Api, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Ask until Redis has counted one of the requests, and the limiter has said that it does."""
    await redis.flushdb()
    caplog.clear()
    deadline = time.monotonic() + PATIENCE
    while not (told(caplog, RETURNS) and await redis.keys("duly:limits*anonymous*")):
        assert time.monotonic() < deadline
        answer = await api.client.get(ME)
        assert answer.status_code == 401
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def redis_user(redis: Redis, *rights: str) -> AsyncIterator[tuple[str, str]]:
    """A user of the Redis server for this test: name and password."""
    name, password = f"duly-test-{uuid.uuid4().hex[:8]}", "s3cret/with:signs"
    await redis.execute_command("ACL", "SETUSER", name, "on", f">{password}", "~*", *rights)
    try:
        yield name, "s3cret%2Fwith%3Asigns"
    finally:
        await redis.execute_command("ACL", "DELUSER", name)


@once
async def test_a_redis_that_may_only_be_read_is_as_good_as_none_until_it_can_be_written(
    start_app: StartApp, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_user(redis, "+@read", "+@connection") as (name, password):
        address = urlsplit(URL)
        url = f"redis://{name}:{password}@{address.hostname}:{address.port}/12"
        api = await start_app(rate_limit_enabled=True, redis_url=url, rate_limit_user="4/hour",
                              rate_limit_anonymous="500/hour")  # fmt: skip
        ann = await api.register()
        assert await statuses(ann, "/tasks", 3) + await statuses(ann, "/auth/me", 2) == [200] * 4 + [429]
        assert told(caplog, FALLS) == 1
        assert await redis.dbsize() == 0
        await redis.execute_command("ACL", "SETUSER", name, "+@all")
        await until_redis_counts(api, redis, caplog)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection to the Redis server, until either side ends it."""
    address = urlsplit(SERVER)
    answers, onward = await asyncio.open_connection(address.hostname, address.port)

    async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := await source.read(65536):
                    target.write(piece)
        finally:
            target.close()

    await asyncio.gather(pour(reader, onward), pour(answers, writer))


async def test_a_connection_that_takes_long_to_set_up_is_used_once_it_stands(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    carried: list[asyncio.Task[None]] = []

    def wait_and_forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def carry() -> None:
            await asyncio.sleep(0.1)
            await forward(reader, writer)

        carried.append(asyncio.create_task(carry()))

    server = await asyncio.start_server(wait_and_forward, "127.0.0.1", 0)
    limiter = Limiter(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/12")
    policy, deadline = read_policy("user", "100000/hour"), time.monotonic() + PATIENCE
    while not told(caplog, RETURNS):
        assert time.monotonic() < deadline
        assert (await limiter.hit(policy, "ann")).allowed
        await asyncio.sleep(0.05)
    assert await redis.keys("duly:limits*ann*")
    await limiter.close()
    server.close()
    await asyncio.wait(carried, timeout=PATIENCE)


async def check_counts(url: str, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A limiter with this address counts in the database of the test, and leaves no connection behind."""
    name = f"limiter-{uuid.uuid4().hex[:8]}"

    async def attempt() -> None:
        await redis.flushdb()
        limiter = Limiter(f"{url}{'&' if '?' in url else '?'}client_name={name}")
        try:
            found = [await limiter.hit(read_policy("user", "2/hour"), "ann") for _ in range(3)]
            assert [one.allowed for one in found] == [True, True, False]
            assert await redis.keys("*"), "Redis was not asked"
            assert await connections(redis, name) == 1
        finally:
            await limiter.close()
        await no_connections(redis, name)

    await undisturbed(attempt, caplog)


async def connections(redis: Redis, name: str) -> int:
    """How many connections have this name."""
    return sum(client["name"] == name for client in await redis.client_list())


async def no_connections(redis: Redis, name: str) -> None:
    """Wait until the Redis server has seen them end."""
    deadline = time.monotonic() + PATIENCE
    while await connections(redis, name):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_redis_may_be_behind_a_socket(redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "redis.sock"
    server = await asyncio.start_unix_server(forward, path)
    await check_counts(f"unix://{path}?db=12", redis, caplog)
    server.close()


def certificate(folder: Path) -> Path:
    """A file with a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    moment = now()
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), moment, moment + timedelta(1)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path = folder / "redis.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem) + secret)
    return path


async def test_redis_may_be_behind_tls(redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown)
    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    await check_counts(f"rediss://127.0.0.1:{port}/12?ssl_ca_certs={shown}", redis, caplog)
    server.close()


async def test_redis_may_want_a_name_and_a_password(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with redis_user(redis, "+@all") as (name, password):
        address = urlsplit(URL)
        place = f"{address.hostname}:{address.port}" if address.port != 6379 else address.hostname
        await check_counts(f"redis://{name}:{password}@{place}/12", redis, caplog)


@once
async def test_an_application_that_ends_leaves_no_connection_to_redis(
    redis: Redis, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"app-{uuid.uuid4().hex[:8]}"
    values: dict[str, Any] = {
        "database_url": database_url,
        "data_dir": tmp_path,
        "redis_url": f"{URL}?client_name={name}",
    }

    async def attempt() -> None:
        async with running(Settings(_env_file=None, **values)) as api:
            assert (await api.client.get(ME)).status_code == 401
            assert await connections(redis, name) >= 1  # the cache may have one too
        await no_connections(redis, name)

    await undisturbed(attempt, caplog)
