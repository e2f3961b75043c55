"""How many statements a list costs, counted in the log of LOG_SQL: for many rows no more than for one."""

import logging
import re
import uuid
from collections.abc import Iterator

import pytest

from duly.kit.logs import request_id_var
from tests.fixtures.application import Person, StartApp


class Counted(logging.Handler):
    """Collects the statements that the application says it ran."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.statements: list[str] = []
        self.only: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        # Beside the requests, mails are delivered, under the id of who asked for them, and ended sessions are asked
        # for; a request may wait for the latter.
        current = request_id_var.get()
        if current and current == (self.only or current) and "blacklisted_tokens" not in record.getMessage():
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
    "/tasks": 1, "/tasks?status=pending": 1, "/tasks?status=pending&sort=title": 2, "/tasks?limit=1&sort=title": 2,
    "/tasks?priority=high": 3, "/tasks?overdue=true&sort=due_date": 3, "/tasks?offset=2&limit=3": 2,
    "/tasks/trash": 3, "/tasks?priority=high&tag=home": 6, "/tasks?search=one": 3, "/changes": 1, "/auth/sessions": 2,
    "/tasks/{task_id}/history": 2,
}  # fmt: skip
# The first of them after a change brings the words up to date; then a total is remembered until the next change.
INDEXES = "/tasks?priority=high&tag=home"
REMEMBERS = ("/tasks?priority=high", "/tasks?overdue=true&sort=due_date", INDEXES, "/tasks?search=one")


async def costs(person: Person, counted: Counted, task_id: str) -> dict[str, list[str]]:
    found = {}
    for path in LISTS:
        counted.statements.clear()
        counted.only = str(uuid.uuid4())
        answer = await person.get(path.format(task_id=task_id), headers={"X-Request-ID": counted.only})
        assert answer.status_code == 200
        found[path] = list(counted.statements)
    counted.only = None
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
    gone = await ann.add_task("gone")
    await ann.delete(f"/tasks/{gone['id']}")
    few = await costs(ann, counted, trashed["id"])
    for number in range(60):
        await ann.add_task(f"one {number}", priority="high", tags=["home"], due_date="2020-01-01T00:00:00Z")
        await ann.patch(f"/tasks/{trashed['id']}", json={"description": str(number)})
    await api.log_in(ann.email)
    await ann.delete(f"/tasks/{trashed['id']}")
    many = await costs(ann, counted, trashed["id"])
    for path, statements in many.items():
        assert 1 <= len(statements) <= len(few[path]) <= LISTS[path], (path, statements)
        writes = [text for text in statements if re.search("INSERT|UPDATE|DELETE", text)]
        assert [("search_places" in text, "task_words" in text) for text in writes] == (
            [(True, False), (False, True)] if path == INDEXES else []
        )
    again = await costs(ann, counted, trashed["id"])
    assert {path: len(again[path]) for path in REMEMBERS} == dict.fromkeys(REMEMBERS, 2)


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
