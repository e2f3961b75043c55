"""Databases for the benchmark: makes them, drops them, and fills the tables that the textbook and Fastify share.

Run in the peers' own virtual environment: `python -m bench.peers.tables create|drop|analyze|size|seed URL …`.
"""

import argparse
import asyncio
import sys
import time
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import jwt

TOKEN_SECONDS = 4 * 3600

SCHEMA = """
create table users (
    id uuid primary key default gen_random_uuid(),
    email text not null unique,
    is_active boolean not null default true
);
create table tasks (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    title varchar(200) not null,
    description varchar(2000),
    completed boolean not null default false,
    completed_at timestamptz,
    priority varchar(10) not null default 'medium',
    due_date timestamptz,
    tags text[] not null default '{}',
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index tasks_by_state on tasks (user_id, completed, created_at);
create index tasks_newest on tasks (user_id, created_at desc);
"""
ADD_USERS = "insert into users (email) select 'user' || n || '@example.com' from generate_series(1, $1) n"
# Users take turns, as they do when they write at the same time: no user's rows lie side by side.
ADD_TASKS = """
insert into tasks (user_id, title, description, priority, due_date, created_at, updated_at)
select u.id, 'Prepare the quarterly report, part ' || n,
    'Collect the figures of the last three months, check them with the team and write them up.',
    (array['low', 'medium', 'high', 'urgent'])[n % 4 + 1], '2027-03-01T09:00:00Z',
    now() - make_interval(secs => $1 - n), now() - make_interval(secs => $1 - n)
from generate_series(1, $1) n cross join users u order by n, u.id
"""
PICK_PAIRS = "select id::text as task, user_id::text as owner from tasks order by random() limit $1"


def split_url(url: str) -> tuple[str, str]:
    """The URL of the server's `postgres` database, and the name of the database in `url`."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/postgres")), parts.path.lstrip("/")


async def administer(url: str, statement: str) -> None:
    """Run a statement with `{name}` for the database of `url`, from outside that database."""
    server, name = split_url(url)
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement.format(name=f'"{name}"'))
    finally:
        await connection.close()


async def analyze(url: str) -> None:
    """Leave the tables as autovacuum would have left them by the time a site is busy."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("vacuum analyze")
        print(connection.get_settings().server_version)
    finally:
        await connection.close()


async def measure(url: str) -> None:
    """Print the bytes of the database's own tables, with their indexes."""
    connection = await asyncpg.connect(url)
    try:
        print(await connection.fetchval("select sum(pg_total_relation_size(relid)) from pg_stat_user_tables"))
    finally:
        await connection.close()


async def seed(url: str, users: int, tasks: int, pairs: int, secret: str) -> None:
    """Make and fill the tables; print `pairs` lines of token, task id and user id."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA)
        await connection.execute(ADD_USERS, users)
        await connection.execute(ADD_TASKS, tasks)
        rows = await connection.fetch(PICK_PAIRS, pairs)
    finally:
        await connection.close()
    expires = int(time.time()) + TOKEN_SECONDS
    tokens = {o: jwt.encode({"sub": o, "exp": expires}, secret, "HS256") for o in {row["owner"] for row in rows}}
    for row in rows:
        print(tokens[row["owner"]], row["task"], row["owner"], sep="\t")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["create", "drop", "analyze", "size", "seed"])
    parser.add_argument("url")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=4_000)
    parser.add_argument("--secret", default="")
    given = parser.parse_args()
    try:
        asyncio.run(act(given))
    except (OSError, asyncpg.PostgresError) as error:
        sys.exit(f"PostgreSQL at {urlsplit(given.url).hostname}: {error}")


async def act(given: argparse.Namespace) -> None:
    """Do the action that was asked for."""
    if given.action == "create":
        await administer(given.url, "create database {name}")
    elif given.action == "drop":
        await administer(given.url, "drop database if exists {name} with (force)")
    elif given.action == "analyze":
        await analyze(given.url)
    elif given.action == "size":
        await measure(given.url)
    else:
        await seed(given.url, given.users, given.tasks, given.pairs, given.secret)


if __name__ == "__main__":
    main()
