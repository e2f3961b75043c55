"""New tasks of several callers that one statement writes: each is as if it had come alone."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from duly.db.answers import AT_ONCE
from duly.db.unit import Database
from duly.errors import Unauthenticated
from duly.identity.principals import Principal
from duly.tasks.drafts import TaskDraft
from duly.tasks.tasks import CreatedTask, create_task
from tests.fixtures.stored import Stored
from tests.schemas import address_of, run_sql
from tests.test_sqlite_units import count_commits
from tests.test_turns import Clock

MOMENT = "'2026-01-01T00:00:00.000000Z'"
USERS = [f"u{number}" for number in range(20)]
TEXTS = [
    'quotes " and \\ and \\u0041', "line\nfeed\ttab\r\x01\x1f\x7f", "🪴 ünïcödé e\u0301 \u200b\u2028", "{}", "[1]",
    "null", "1e5", "0012", "'; DROP TABLE tasks; --", " blank ", "\ufeff\uffff", "true",
]  # fmt: skip


@pytest.fixture(autouse=True)
async def people(database_url: str) -> None:
    for user_id in USERS:
        await run_sql(
            database_url,
            f"INSERT INTO users (id, version, created_at, updated_at) VALUES ('{user_id}', 1, {MOMENT}, {MOMENT})",
        )


async def create(database: Database, user_id: str, title: str, **fields: Any) -> CreatedTask:
    draft = TaskDraft(**{"title": title, "description": None, "completed": False, "priority": "medium",
                         "due_date": None, "tags": [], **fields})  # fmt: skip
    async with database.single() as unit:
        return await create_task(unit, Principal(user_id, None, user_id, 0.0), draft)


@pytest.mark.covers("A140", "C102")
async def test_one_that_is_refused_is_refused_alone(database: Database, database_url: str) -> None:
    callers = [*USERS[:10], "nobody", *USERS[10:]]
    answers = await asyncio.gather(*(create(database, who, f"of {who}") for who in callers), return_exceptions=True)
    assert [who for who, answer in zip(callers, answers, strict=True) if isinstance(answer, BaseException)] == [
        "nobody"
    ]
    assert isinstance(answers[10], Unauthenticated)
    stored = Stored(database_url)
    assert await stored.value("SELECT count(*) FROM tasks") == len(USERS)
    assert {row[0] for row in await stored.rows("SELECT position FROM changes")} == {1}
    for who, answer in zip(callers, answers, strict=True):
        if isinstance(answer, CreatedTask):
            task = orjson.loads(answer.document)
            assert (task["id"], task["user_id"], task["title"]) == (answer.id, who, f"of {who}")


async def test_texts_and_values_are_what_they_are_alone(database: Database) -> None:
    fields = [{"description": text, "tags": [text.strip()], "completed": n % 2 == 0} for n, text in enumerate(TEXTS)]
    pairs = list(zip(TEXTS, fields, strict=True))
    alone = [await create(database, "u0", text, **values) for text, values in pairs]
    together = await asyncio.gather(*(create(database, "u1", text, **values) for text, values in pairs))
    minted = {"id", "user_id", "created_at", "updated_at", "completed_at"}
    for one, other in zip(alone, together, strict=True):
        first, second = orjson.loads(one.document), orjson.loads(other.document)
        assert {k: v for k, v in first.items() if k not in minted} == {
            k: v for k, v in second.items() if k not in minted
        }
        assert (first["completed_at"] is None) == (second["completed_at"] is None)


@pytest.mark.covers("A140", "C102")
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_those_that_wait_share_a_commit_with_each_other_and_with_units(
    database: Database, database_url: str
) -> None:
    path = address_of(database_url).path
    assert isinstance(path, Path)
    before = count_commits(path)

    async def in_a_unit(user_id: str) -> None:
        async with database.unit() as unit:
            await create_task(unit, Principal(user_id, None, user_id, 0.0), TaskDraft(title="in a unit"))

    await asyncio.gather(*(create(database, who, "together") for who in USERS), *(in_a_unit(who) for who in USERS))
    assert await Stored(database_url).value("SELECT count(*) FROM tasks") == 2 * len(USERS)
    assert count_commits(path) - before <= 4


async def test_those_that_were_written_together_go_on_in_several_turns_of_the_loop(database: Database) -> None:
    clock, went_on = Clock(), Counter[int]()

    async def create_and_go_on(user_id: str) -> None:
        await create(database, user_id, "together")
        went_on[clock.turn] += 1

    await asyncio.gather(*(create_and_go_on(user_id) for user_id in 10 * USERS))
    assert sum(went_on.values()) == 10 * len(USERS)
    # Two statements are on their way at once on PostgreSQL.
    assert max(went_on.values()) <= 2 * AT_ONCE
