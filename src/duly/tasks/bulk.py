"""Many changes in one transaction: each on its own, or all or nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from duly.db.unit import Unit
from duly.errors import Invalid, NotFound, PreconditionFailed
from duly.identity.principals import Principal
from duly.tasks import history_queries, tasks
from duly.tasks.drafts import TaskDraft, TaskPatch
from duly.tasks.tasks import StoredTask

MOST_OPERATIONS = 100


@dataclass(frozen=True, slots=True)
class Addition:
    """Create this task."""

    draft: TaskDraft


@dataclass(frozen=True, slots=True)
class Merge:
    """Update a task; completing and reopening are updates too."""

    task_id: str
    patch: TaskPatch
    expected: int | None


@dataclass(frozen=True, slots=True)
class Removal:
    """Move a task to the trash."""

    task_id: str
    expected: int | None


@dataclass(frozen=True, slots=True)
class Return:
    """Take a task out of the trash."""

    task_id: str
    expected: int | None


@dataclass(frozen=True, slots=True)
class NotApplied:
    """Not done, because something else in a batch that was to be done as a whole was refused."""


Refusal: TypeAlias = NotFound | PreconditionFailed | Invalid
# What the caller sent for one place of the batch; a refusal stands where that could not be read.
Operation: TypeAlias = Addition | Merge | Removal | Return | Refusal
# The task after it, None when it lies in the trash now, or why nothing was done.
Outcome: TypeAlias = StoredTask | Refusal | NotApplied | None


class NothingApplied(Exception):
    """Of a batch that was to be done as a whole something was refused: roll back. `outcomes` says what, in order."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__("the batch was refused")
        self.outcomes = outcomes


async def change_tasks(
    unit: Unit, actor: Principal, operations: Sequence[Operation], *, atomic: bool
) -> Sequence[Outcome]:
    """Do them in order, each seeing what those before it did; what is refused stops no other.

    Raises `NothingApplied` when they are to be done as a whole and one is refused; the caller rolls the unit back.
    """
    if atomic and any(isinstance(operation, Refusal) for operation in operations):
        raise NothingApplied(_unapplied(operations))
    await _hold(unit, actor, operations)
    outcomes: list[Outcome] = []
    for place, operation in enumerate(operations):
        try:
            outcomes.append(await _apply(unit, actor, operation))
        except (NotFound, PreconditionFailed) as error:
            if atomic:
                refused = [error if other == place else None for other in range(len(operations))]
                raise NothingApplied(_unapplied(refused)) from None
            outcomes.append(error)
    return outcomes


def _unapplied(found: Sequence[object]) -> list[Outcome]:
    """The refusals that were found, and in every other place that nothing was done because of them."""
    return [item if isinstance(item, Refusal) else NotApplied() for item in found]


async def _apply(unit: Unit, actor: Principal, operation: Operation) -> Outcome:
    match operation:
        case Addition(draft):
            return await tasks.create_task(unit, actor, draft)
        case Merge(task_id, patch, expected):
            return await tasks.update_task(unit, actor, task_id, patch, expected=expected)
        case Removal(task_id, expected):
            await tasks.trash_task(unit, actor, task_id, expected=expected)
            return None
        case Return(task_id, expected):
            return await _restore(unit, actor, task_id, expected)
    return operation


async def _restore(unit: Unit, actor: Principal, task_id: str, expected: int | None) -> StoredTask:
    try:
        return await tasks.restore_task(unit, actor, task_id, expected=expected)
    except NotFound:
        # One that does not lie in the trash is answered as it is, so that a retry is safe.
        return await tasks.update_task(unit, actor, task_id, TaskPatch(), expected=expected)


async def _hold(unit: Unit, actor: Principal, operations: Sequence[Operation]) -> None:
    """Hold the rows before the first write.

    Each write also holds the user's counter until the end. Two transactions that took rows and counter in different
    orders would wait for each other.
    """
    ids = sorted(set(_named(operations)))
    await unit.begin()
    if not ids:
        return
    count = 1 << (len(ids) - 1).bit_length()
    padded = ids + ids[-1:] * (count - len(ids))
    values = {f"task_id_{number}": task_id for number, task_id in enumerate(padded)}
    await unit.fetch(history_queries.lock_tasks(count), user_id=actor.user_id, **values)


def _named(operations: Sequence[Operation]) -> Iterator[str]:
    for operation in operations:
        if isinstance(operation, (Merge, Removal, Return)):
            yield operation.task_id
