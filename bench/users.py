"""What a request costs as the service grows: the same load on databases of 100, 1,000 and 100,000 accounts.

Up to 1,000 of them sign up and send the requests, in turn. The others are there all the same, with tasks: rows that SQL
wrote, whose triggers wrote their changes and counters. To hash 99,000 passwords would take the better part of an hour.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import asyncpg

from bench.beside import race, render
from bench.compare import Plan, make_duly, open_bench, start
from bench.duly import Duly, DulyPostgres
from bench.progress import say
from bench.workload import Scale

SIZES = (100, 1_000, 100_000)
KNOWN = 1_000
TASKS = 100
OTHERS_TASKS = 10
SLICE = 1_000
CONNECTIONS = (1, 32)
_TASK = (
    "id, user_id, title, title_key, description, completed, priority, due_key, tags, version, created_at, updated_at"
)
_TEXT = "'Collect the figures of the last three months, check them with the team and write them up.'"
_SQLITE = (
    """WITH RECURSIVE n(u) AS (SELECT ?1 UNION ALL SELECT u + 1 FROM n WHERE u + 1 < ?2)
    INSERT INTO users (id, email, hashed_password, version, created_at, updated_at)
    SELECT printf('0190%04x-0000-7000-8000-%012x', u >> 16, u), printf('other%d@example.com', u), 'none', 1,
     '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z' FROM n""",
    f"""WITH RECURSIVE n(u) AS (SELECT ?1 UNION ALL SELECT u + 1 FROM n WHERE u + 1 < ?2)
    INSERT INTO tasks ({_TASK})
    SELECT printf('0190%04x-0000-7000-9%03x-%012x', u >> 16, t.value, u),
     printf('0190%04x-0000-7000-8000-%012x', u >> 16, u), 'Report ' || t.value, 'report ' || t.value, {_TEXT}, 0,
     'medium', '9999-12-31T23:59:59.999999Z', '[]', 1, '2026-01-02T00:00:00.000000Z', '2026-01-02T00:00:00.000000Z'
    FROM json_each(?3) t CROSS JOIN n""",
)
_POSTGRES = (
    """INSERT INTO users (id, email, hashed_password, version, created_at, updated_at)
    SELECT '0190' || lpad(to_hex(u >> 16), 4, '0') || '-0000-7000-8000-' || lpad(to_hex(u), 12, '0'),
     'other' || u || '@example.com', 'none', 1, now(), now() FROM generate_series($1::int, $2 - 1) u""",
    f"""INSERT INTO tasks ({_TASK})
    SELECT '0190' || lpad(to_hex(u >> 16), 4, '0') || '-0000-7000-9' || lpad(to_hex(t), 3, '0') || '-'
     || lpad(to_hex(u), 12, '0'), '0190' || lpad(to_hex(u >> 16), 4, '0') || '-0000-7000-8000-'
     || lpad(to_hex(u), 12, '0'), 'Report ' || t, 'report ' || t, {_TEXT}, false, 'medium',
     '9999-12-31T23:59:59.999999Z', '[]', 1, now(), now()
    FROM generate_series(0, $3 - 1) t CROSS JOIN generate_series($1::int, $2 - 1) u""",
)


def add_others(server: Duly, count: int) -> None:
    """Accounts that nobody signs in to, with their tasks."""
    say(f"{server.label}: {count:,} more accounts")
    if isinstance(server, DulyPostgres):
        asyncio.run(_add_to_postgres(server.database_url, count))
        server.settle_database()
    else:
        _add_to_sqlite(next((server.folder / "data").glob("*.db")), count)


def _slices(count: int) -> Iterator[tuple[int, int]]:
    """So many accounts a transaction: others write meanwhile, and the log stays small."""
    return ((start, min(start + SLICE, count)) for start in range(0, count, SLICE))


def _add_to_sqlite(file: Path, count: int) -> None:
    connection = apsw.Connection(str(file))
    try:
        connection.set_busy_timeout(5_000)
        for first, end in _slices(count):
            with connection:
                connection.execute(_SQLITE[0], (first, end))
                connection.execute(_SQLITE[1], (first, end, json.dumps([*range(OTHERS_TASKS)])))
    finally:
        connection.close()


async def _add_to_postgres(url: str, count: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        for first, end in _slices(count):
            async with connection.transaction():
                await connection.execute(_POSTGRES[0], first, end)
                await connection.execute(_POSTGRES[1], first, end, OTHERS_TASKS)
    finally:
        await connection.close()


def crowd(plan: Plan) -> int:
    """Measure each Duly of the plan at every size, and print its tables."""
    for spec in plan.servers:
        with open_bench(plan) as (bench, stack):
            servers = {}
            for size in SIZES:
                own = replace(bench, scale=Scale(min(size, KNOWN), TASKS))
                server = make_duly(spec, own, f"{size:,} accounts")
                servers[server.label] = server, start(server, stack)
                if size > KNOWN:
                    add_others(server, size - KNOWN)
            found = race(plan, servers, CONNECTIONS)
            print(f"\n{spec}: {next(iter(servers.values()))[0].describe()}")
            note = "how much longer a request takes than in the first row"
            print("\n".join(render(found, lambda one, first: first.rate / one.rate, note=note)))
    return 0
