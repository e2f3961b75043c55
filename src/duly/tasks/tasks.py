"""Creating, reading, changing and trashing one task."""

from dataclasses import dataclass

from duly.db.conflicts import ForeignKeyViolation
from duly.db.statements import Statement
from duly.db.unit import Reader, Unit
from duly.errors import NotFound, PreconditionFailed, Unauthenticated
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.tasks import queries
from duly.tasks.drafts import TaskDraft, TaskPatch, with_keys

FIRST_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task as the database wrote it: its JSON document, built there, and its version."""

    document: str
    version: int


@dataclass(frozen=True, slots=True)
class CreatedTask(StoredTask):
    """A new task, with the id that its address is made of."""

    id: str


async def find_task(reader: Reader, actor: Principal, task_id: str) -> StoredTask:
    """Raises `NotFound` for an unknown, trashed or somebody else's task."""
    row = await reader.first(queries.FIND_TASK, task_id=task_id, user_id=actor.user_id)
    if row is None:
        raise missing()
    return StoredTask(row[0], row[1])


async def create_task(unit: Unit, actor: Principal, draft: TaskDraft) -> CreatedTask:
    """The database counts it and writes its change row in the same transaction."""
    moment = now()
    task_id = new_id()
    values = with_keys({"title": draft.title, "due_date": draft.due_date, "tags": draft.tags})
    try:
        row = await unit.first(
            queries.INSERT_TASK,
            **values,
            id=task_id,
            user_id=actor.user_id,
            description=draft.description,
            completed=draft.completed,
            completed_at=moment if draft.completed else None,
            priority=draft.priority,
            version=FIRST_VERSION,
            created_at=moment,
            updated_at=moment,
            changed_by=actor.session_id,
        )
    except ForeignKeyViolation:
        raise Unauthenticated("This account is gone. Sign in again.") from None
    assert row is not None  # noqa: S101 - INSERT … RETURNING of one row gives one row
    unit.announce(actor.user_id)
    return CreatedTask(row[0], FIRST_VERSION, task_id)


async def update_task(
    unit: Unit, actor: Principal, task_id: str, patch: TaskPatch, *, expected: int | None
) -> StoredTask:
    """Merge the fields that are set. A patch that sets nothing changes nothing.

    Raises `NotFound`, and `PreconditionFailed` when `expected` is not the current version.
    """
    columns = patch.columns()
    if not columns:
        return await _unchanged(unit, actor, task_id, expected)
    statement = queries.update_task(frozenset(columns))
    return await _change(unit, actor, task_id, statement, expected, **columns)


async def toggle_task(unit: Unit, actor: Principal, task_id: str, *, expected: int | None) -> StoredTask:
    """Turn open into done and done into open. Raises as `update_task`."""
    return await _change(unit, actor, task_id, queries.TOGGLE_TASK, expected)


async def trash_task(unit: Unit, actor: Principal, task_id: str, *, expected: int | None) -> None:
    """Move a task to the trash, from where it can be restored. Raises as `update_task`."""
    row = await unit.first(
        queries.TRASH_TASK, task_id=task_id, user_id=actor.user_id, expected=expected, now=now(),
        changed_by=actor.session_id,
    )  # fmt: skip
    if row is None:
        raise await _refusal(unit, actor, task_id, expected)
    unit.announce(actor.user_id)


async def restore_task(unit: Unit, actor: Principal, task_id: str, *, expected: int | None = None) -> StoredTask:
    """Take a task out of the trash.

    Raises `NotFound` when it does not lie there, and `PreconditionFailed` when it does with another version.
    """
    row = await unit.first(
        queries.RESTORE_TASK, task_id=task_id, user_id=actor.user_id, expected=expected, now=now(),
        changed_by=actor.session_id,
    )  # fmt: skip
    if row is None:
        if expected is not None and await unit.first(queries.FIND_TRASHED, task_id=task_id, user_id=actor.user_id):
            raise stale()
        raise NotFound("There is no such task in the trash.")
    unit.announce(actor.user_id)
    return StoredTask(row[0], row[1])


async def _change(
    unit: Unit, actor: Principal, task_id: str, statement: Statement, expected: int | None, **columns: object
) -> StoredTask:
    row = await unit.first(
        statement, task_id=task_id, user_id=actor.user_id, expected=expected, now=now(),
        changed_by=actor.session_id, **columns,
    )  # fmt: skip
    if row is None:
        raise await _refusal(unit, actor, task_id, expected)
    unit.announce(actor.user_id)
    return StoredTask(row[0], row[1])


async def _unchanged(unit: Unit, actor: Principal, task_id: str, expected: int | None) -> StoredTask:
    task = await find_task(unit, actor, task_id)
    if expected is not None and task.version != expected:
        raise stale()
    return task


async def _refusal(unit: Unit, actor: Principal, task_id: str, expected: int | None) -> NotFound | PreconditionFailed:
    """The update's own condition decided; this only finds out how to say it."""
    if expected is None:
        return missing()
    found = await unit.first(queries.FIND_VERSION, task_id=task_id, user_id=actor.user_id)
    return missing() if found is None else stale()


def missing() -> NotFound:
    """Absent, trashed and somebody else's are one answer."""
    return NotFound("There is no such task.")


def stale() -> PreconditionFailed:
    """RFC 9110 §13.1.1."""
    return PreconditionFailed(
        "The task was changed meanwhile. Read it again, merge your change, and send the new ETag."
    )
