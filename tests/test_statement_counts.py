"""How many statements a list costs, counted in the log of LOG_SQL: for many rows no more than for one."""

import logging
from collections.abc import Iterator

import pytest

from duly.kit.logs import request_id_var
from tests.fixtures.application import Person, StartApp


class Counted(logging.Handler):
    """Collects the statements that the application says it ran."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.statements: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Beside the requests, mails are delivered and ended sessions are asked for; a request may wait for the latter.
        if request_id_var.get() and "blacklisted_tokens" not in record.getMessage():
            self.statements.append(record.getMessage())


@pytest.fixture
def counted() -> Iterator[Counted]:
    handler = Counted()
    logger = logging.getLogger("duly.sql")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.WARNING)


LISTS = {
    "/tasks": 2, "/tasks?status=pending": 2, "/tasks?limit=1&sort=title": 2, "/tasks?priority=high&tag=home": 2,
    "/tasks?overdue=true&sort=due_date": 2, "/tasks?offset=2&limit=3": 2, "/tasks/trash": 2, "/changes": 1,
    "/auth/sessions": 2,
}  # fmt: skip


async def costs(person: Person, counted: Counted) -> dict[str, list[str]]:
    found = {}
    for path in LISTS:
        counted.statements.clear()
        assert (await person.get(path)).status_code == 200
        found[path] = list(counted.statements)
    return found


@pytest.mark.covers("A099", "D116")
async def test_a_list_costs_no_more_statements_for_many_rows_than_for_one(
    start_app: StartApp, counted: Counted
) -> None:
    api = await start_app(log_sql=True)
    ann = await api.register()
    await ann.get("/tasks")
    counted.statements.clear()
    trashed = await ann.add_task("one", priority="high", tags=["home"], due_date="2020-01-01T00:00:00Z")
    assert any("INSERT INTO tasks" in statement for statement in counted.statements)
    few = await costs(ann, counted)
    for number in range(60):
        await ann.add_task(str(number), priority="high", tags=["home"], due_date="2020-01-01T00:00:00Z")
    await api.log_in(ann.email)
    await ann.delete(f"/tasks/{trashed['id']}")
    many = await costs(ann, counted)
    for path, statements in many.items():
        assert 1 <= len(statements) <= len(few[path]) <= LISTS[path], (path, statements)
        assert all(statement.lstrip().upper().startswith("SELECT") for statement in statements)


async def test_a_statement_is_logged_without_its_values(start_app: StartApp, counted: Counted) -> None:
    ann = await (await start_app(log_sql=True)).register()
    await ann.add_task("a very secret title")
    await ann.get("/tasks?tag=a-secret-tag")
    assert len(counted.statements) >= 3
    assert not any("secret" in statement or ann.email in statement for statement in counted.statements)


async def test_without_log_sql_no_statement_is_logged(start_app: StartApp, counted: Counted) -> None:
    ann = await (await start_app()).register()
    await ann.add_task()
    assert counted.statements == []
