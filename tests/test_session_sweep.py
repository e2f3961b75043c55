"""Sessions and tokens that are over are removed after a while, and nothing that anybody still needs."""

from datetime import timedelta
from pathlib import Path

import pytest

from duly.db.unit import Database
from duly.identity.sweeps import (
    BLACKLIST_MARGIN,
    DEVICE_MEMORY,
    SESSION_MARGIN,
    SESSIONS_AT_ONCE,
    Swept,
    sweep_sessions,
)
from duly.kit.clock import now
from tests.commands import answer, run_duly
from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored

MINUTE = timedelta(minutes=1)


@pytest.fixture
def sweeping(api: Api) -> Database:
    """The application's own database."""
    database: Database = api.app.state.services.database
    return database


async def tokens(stored: Stored) -> int:
    return int(await stored.value("SELECT count(*) FROM refresh_tokens"))


async def sessions(stored: Stored) -> int:
    return int(await stored.value("SELECT count(*) FROM sessions"))


async def refresh(api: Api, person: Person) -> None:
    body = {"refresh_token": person.refresh_token}
    assert (await api.client.post("/api/v1/auth/refresh", json=body)).status_code == 200


@pytest.mark.covers("B081")
@pytest.mark.parametrize("column", ["ended_at", "expires_at"])
async def test_a_session_goes_with_its_tokens_a_month_after_it_was_over(
    api: Api, ann: Person, stored: Stored, sweeping: Database, *, column: str
) -> None:
    await refresh(api, ann)
    await stored.rows("UPDATE sessions SET device = NULL")
    await stored.rows(f"UPDATE sessions SET {column} = ?", now() - SESSION_MARGIN + MINUTE)
    assert await sweep_sessions(sweeping) == Swept(0, 0, 0)
    await stored.rows(f"UPDATE sessions SET {column} = ?", now() - SESSION_MARGIN - MINUTE)
    assert await sweep_sessions(sweeping) == Swept(1, 2, 0)
    assert (await sessions(stored), await tokens(stored)) == (0, 0)


async def test_the_tokens_of_a_live_session_stay_so_that_reuse_is_found(
    api: Api, ann: Person, stored: Stored, sweeping: Database
) -> None:
    await refresh(api, ann)
    long_ago = now() - timedelta(days=400)
    await stored.rows("UPDATE refresh_tokens SET created_at = ?, replaced_at = ?, expires_at = ?", *[long_ago] * 3)
    assert await sweep_sessions(sweeping) == Swept(0, 0, 0)
    answered = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert (answered.status_code, answered.json()["code"]) == (401, "TOKEN_REUSED")


async def test_the_newest_session_of_a_device_is_remembered_for_a_year(
    api: Api, ann: Person, stored: Stored, sweeping: Database
) -> None:
    await api.log_in(ann.email)
    await stored.rows("UPDATE sessions SET device = 'a browser', ended_at = ?", now() - SESSION_MARGIN - MINUTE)
    newest = await stored.value("SELECT max(id) FROM sessions")
    assert await sweep_sessions(sweeping) == Swept(1, 2, 0)
    assert await stored.rows("SELECT id FROM sessions") == [(newest,)]
    await stored.rows("UPDATE sessions SET ended_at = ?", now() - DEVICE_MEMORY - MINUTE)
    assert await sweep_sessions(sweeping) == Swept(1, 0, 0)


async def test_more_than_go_at_once_all_go(ann: Person, stored: Stored, sweeping: Database) -> None:
    count = 2 * SESSIONS_AT_ONCE + 3
    for number in range(count):
        moment = now() - SESSION_MARGIN - MINUTE
        await stored.rows(
            "INSERT INTO sessions (id, user_id, created_at, updated_at, last_used_at, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            f"old-{number:03}", ann.user_id, *[moment] * 4,
        )  # fmt: skip
    assert (await sweep_sessions(sweeping)).sessions == count
    assert await sessions(stored) == 1


async def test_the_blacklist_forgets_whose_tokens_are_all_dead(
    api: Api, ann: Person, stored: Stored, sweeping: Database
) -> None:
    assert (await api.client.post("/api/v1/auth/logout", headers=ann.headers)).status_code == 204
    assert (await sweep_sessions(sweeping)).blacklisted == 0
    await stored.rows("UPDATE blacklisted_tokens SET expires_at = ?", now() - BLACKLIST_MARGIN - MINUTE)
    assert (await sweep_sessions(sweeping)).blacklisted == 1


@pytest.mark.covers("B081")
async def test_the_command_says_how_many_went(
    api: Api, ann: Person, stored: Stored, *, database_url: str, tmp_path: Path
) -> None:
    await stored.rows("UPDATE sessions SET device = NULL, ended_at = ?", now() - SESSION_MARGIN - MINUTE)
    lines = answer(await run_duly(tmp_path, "sweep", database_url=database_url)).splitlines()
    assert {"sessions: 1", "refresh tokens: 1", "entries of the blacklist: 0"} <= set(lines)
