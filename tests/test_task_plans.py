"""Which index each list of tasks goes by, as the databases' own EXPLAIN tells it."""

import re
from dataclasses import dataclass, replace

import asyncpg
import pytest

from duly.db.statements import Statement
from duly.db.unit import Database
from duly.tasks.list_queries import ListShape, count_tasks, list_tasks
from duly.tasks.queries import FIND_TASK, TRASH_TASK
from duly.tasks.search import catch_up, find_state
from tests.schemas import run_sql

SIZES = {"u1": 2000, "u2": 200, "u3": 200}
SORTS = {
    "created_at": "ix_tasks_user_id_created_at",
    "due_date": "ix_tasks_user_id_due_key",
    "priority": "ix_tasks_user_id_priority_key",
}
KEPT = {"updated_at": "ix_task_words_user_id_updated_at", "title": "ix_task_words_user_id_title_key"}
COMPLETED = "ix_tasks_user_id_completed"
WORDS = {"sqlite": "task_words_index VIRTUAL TABLE", "postgresql": "ix_task_words_words"}


def fill(user_id: str, size: int, dialect: str, *, prefix: str = "") -> str:
    """One person's tasks, whose ids begin with the prefix or the person's; what is rare has ten of them."""
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {size - 1})"
    at = "strftime('%Y-%m-%dT%H:%M:%f000Z', '{0}', (n * 7919 % {1}) || ' {2}')"
    if dialect == "postgresql":
        at = "timestamptz '{0} 00:00Z' + (n * 7919 % {1}) * interval '1 {2}'"
    created, due = at.format("2026-01-01", size, "seconds"), at.format("2099-01-01", size, "minutes")
    return f"""{numbers} INSERT INTO tasks (id, user_id, title, title_key, completed, priority, due_date, due_key, tags,
            version, created_at, updated_at)
        SELECT '{prefix or user_id}-' || n, '{user_id}', 'Task ' || n, 't' || (n * 31 % 997), n % 2 = 0,
            CASE WHEN n < 10 THEN 'urgent' WHEN n % 3 = 0 THEN 'low' ELSE 'high' END, {due}, {due}, '["common"]', 1,
            {created}, {created} FROM numbers"""


@dataclass
class Planner:
    """Explains statements on a database with tasks of several people."""

    database: Database
    url: str

    async def explain(self, statement: Statement) -> str:
        """The plan, one step a line; on PostgreSQL as a prepared statement has it, which knows no values."""
        plan = statement.plan(self.database.dialect)
        if self.database.dialect.name == "sqlite":
            rows = await run_sql(self.url, f"EXPLAIN QUERY PLAN {plan.sql}".replace("?", "NULL"))
            return "\n".join(row[3] for row in rows)
        server = await asyncpg.connect(self.url)
        try:
            # As many as the test has, the pages of a real server's tables are never read all.
            await server.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
            await server.execute(f"PREPARE asked AS {plan.sql}")
            nothing = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", plan.sql))))
            return "\n".join(row[0] for row in await server.fetch(f"EXPLAIN EXECUTE asked({nothing})"))
        finally:
            await server.close()


@pytest.fixture
async def planner(database: Database, database_url: str) -> Planner:
    dialect = database.dialect.name
    moment = "'2026-01-01T00:00:00.000000Z'"
    for user_id, size in SIZES.items():
        await run_sql(
            database_url,
            f"INSERT INTO users (id, version, created_at, updated_at) VALUES ('{user_id}', 1, {moment}, {moment})",
        )
        await run_sql(database_url, fill(user_id, size, dialect))
        await catch_up(database, user_id, await find_state(database, user_id))
    await run_sql(database_url, "ANALYZE")
    if dialect == "sqlite":
        # As it ships there are no statistics.
        await run_sql(database_url, "DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4")
    return Planner(database, database_url)


def sorts(plan: str) -> int:
    """How many sorts a plan has."""
    return sum("TEMP B-TREE" in line or line.strip(" ->").startswith(("Sort  (", "Incremental Sort")) for line in
               plan.splitlines())  # fmt: skip


@pytest.mark.covers("B085", "A099")
async def test_every_order_is_an_index_that_is_walked_in_both_directions(planner: Planner) -> None:
    for sort, index in {**SORTS, **KEPT}.items():
        for descending in (True, False):
            for after in (True, False):
                shape = ListShape(sort=sort, descending=descending, after=after, kept=sort in KEPT)
                plan = await planner.explain(list_tasks(shape))
                assert index in plan, (shape, plan)
                assert sorts(plan) == 0, (shape, plan)


@pytest.mark.covers("B084")
async def test_a_filter_that_many_pass_is_tried_while_the_order_is_walked(planner: Planner) -> None:
    shapes = [
        ListShape(priority=True), ListShape(due_before=True, due_after=True), ListShape(overdue=True),
        ListShape(overdue=False), ListShape(words=True), ListShape(words=True, literals=True, priority=True),
    ]  # fmt: skip
    for shape in shapes:
        for sort, index in {**SORTS, **KEPT}.items():
            plan = await planner.explain(list_tasks(replace(shape, sort=sort, kept=sort in KEPT)))
            # An index of open tasks by age is as good for those that are overdue.
            also = COMPLETED if shape.overdue and sort == "created_at" else index
            assert index in plan or also in plan, (shape, sort, plan)
            assert sorts(plan) == 0, (shape, sort, plan)
            assert ("ix_task_words_task_id" in plan) == shape.words
    by_status = await planner.explain(list_tasks(ListShape(completed=True)))
    assert COMPLETED in by_status
    assert sorts(by_status) == 0
    for sort, index in KEPT.items():
        plan = await planner.explain(list_tasks(ListShape(completed=True, sort=sort, kept=True)))
        assert index in plan
        assert sorts(plan) == 0


@pytest.mark.covers("A069", "B084")
async def test_a_filter_that_few_pass_is_answered_by_its_own_index(planner: Planner, dialect: str) -> None:
    trash = "ix_tasks_user_id_deleted_at"
    shapes = [
        (ListShape(priority=True), SORTS["priority"]), (ListShape(due_before=True), SORTS["due_date"]),
        (ListShape(overdue=True), SORTS["due_date"]), (ListShape(words=True), WORDS[dialect]),
        (ListShape(words=True, literals=True), WORDS[dialect]), (ListShape(trashed=True), trash),
        (ListShape(trashed=True, priority=True, due_before=True), trash),
    ]  # fmt: skip
    for shape, index in shapes:
        for sort in ("created_at", "title"):
            plan = await planner.explain(list_tasks(replace(shape, narrow=True, sort=sort)))
            assert index in plan, (shape, sort, plan)
            # Of what was found one sort, in memory; the documents of a page by their ids.
            assert 1 <= sorts(plan) <= 2, (shape, sort, plan)
        counted = await planner.explain(count_tasks(shape.counting(slow=True)))
        assert index in counted, (shape, counted)


async def test_the_purge_of_the_trash_has_an_index(planner: Planner, dialect: str) -> None:
    moment = "'2026-01-01T00:00:00.000000Z'"
    sql = f"SELECT id FROM tasks WHERE deleted_at < {moment} ORDER BY deleted_at LIMIT 100"
    explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    plan = "\n".join(str(row) for row in await run_sql(planner.url, f"{explain} {sql}"))
    assert re.search(r"ix_tasks_(user_id_)?deleted_at", plan), plan


async def test_one_task_is_found_by_its_key_even_before_the_table_was_ever_analysed(
    database: Database, database_url: str
) -> None:
    """PostgreSQL's guesses of a new table are far off, and a plan that is made with them is kept."""
    moment = "'2026-01-01T00:00:00.000000Z'"
    await run_sql(
        database_url, f"INSERT INTO users (id, version, created_at, updated_at) VALUES ('u1', 1, {moment}, {moment})"
    )
    await run_sql(database_url, fill("u1", 1000, database.dialect.name))
    statements = [FIND_TASK, TRASH_TASK]
    if database.dialect.name == "postgresql":
        assert FIND_TASK.many is not None
        statements.append(FIND_TASK.many)
    for statement in statements:
        plan = await Planner(database, database_url).explain(statement)
        assert "pk_tasks" in plan or "sqlite_autoindex_tasks_1" in plan, plan
        assert "ix_tasks" not in plan, plan
