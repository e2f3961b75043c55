"""Many task changes in one request, on the wire."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from duly.contracts.v1.fields import JSON_INTEGER, Flag
from duly.contracts.v1.models import Identifier, Input, Output
from duly.contracts.v1.problems import from_validation
from duly.contracts.v1.task_models import TaskCreate, TaskResponse, TaskUpdate
from duly.contracts.v1.task_routes import TaskId
from duly.contracts.v1.user_models import ItemProblem
from duly.errors import Invalid, NotFound, PreconditionFailed
from duly.tasks import bulk
from duly.tasks.bulk import MOST_OPERATIONS
from duly.tasks.drafts import TaskPatch

OneOfTask: TypeAlias = Literal["complete", "reopen", "delete", "restore"]
Op: TypeAlias = Literal["create", "update", "complete", "reopen", "delete", "restore"]
Version = Annotated[
    int | None,
    Field(ge=1, le=2**31 - 1, description="Like `If-Match`: 412 when the task has another one."),
    JSON_INTEGER,
]
_ID = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"
_EXAMPLE: list[Any] = [
    {"op": "create", "task": {"title": "Water the plants", "tags": ["home"]}},
    {"op": "update", "id": _ID, "changes": {"priority": "urgent", "due_date": None}},
    {"op": "complete", "id": _ID, "version": 2},
    {"op": "delete", "id": _ID},
]
_task_id: TypeAdapter[str] = TypeAdapter(TaskId)


def _refused_apart(value: object, read: Any) -> object:
    # What is wrong inside is the result of this one operation and stops no other.
    if not isinstance(value, dict):
        raise PydanticCustomError("object_type", "must be an object")
    try:
        return read(value)
    except ValidationError as error:
        return from_validation(RequestValidationError(error.errors()))


def _apart(model: type[BaseModel]) -> Any:
    """What the document calls a `model`, and is one or the `Invalid` that says why not."""
    return Annotated[model, WrapValidator(_refused_apart)]


class TaskBulkCreate(Input):
    """Create a task, as `POST /tasks` does."""

    op: Literal["create"]
    task: _apart(TaskCreate)  # type: ignore[valid-type]

    def to_operation(self) -> bulk.Operation:
        """The feature's own type."""
        task: TaskCreate | Invalid = self.task
        return task if isinstance(task, Invalid) else bulk.Addition(task.to_draft())


class TaskBulkUpdate(Input):
    """Merge fields into a task, as `PATCH /tasks/{task_id}` does."""

    op: Literal["update"]
    id: Identifier
    changes: _apart(TaskUpdate)  # type: ignore[valid-type]
    version: Version = None

    def to_operation(self) -> bulk.Operation:
        """The feature's own type."""
        changes: TaskUpdate | Invalid = self.changes
        if isinstance(changes, Invalid):
            return changes
        if None not in (self.version, changes.version) and self.version != changes.version:
            return PreconditionFailed("The two versions differ. Send the one that you read.")
        expected = changes.version if self.version is None else self.version
        return bulk.Merge(_task_id.validate_python(self.id), changes.to_patch(), expected)


class TaskBulkChange(Input):
    """Complete, reopen, delete or restore a task."""

    op: OneOfTask
    id: Identifier
    version: Version = None

    def to_operation(self) -> bulk.Operation:
        """The feature's own type."""
        task_id = _task_id.validate_python(self.id)
        if self.op == "delete":
            return bulk.Removal(task_id, self.version)
        if self.op == "restore":
            return bulk.Return(task_id, self.version)
        return bulk.Merge(task_id, TaskPatch(completed=self.op == "complete"), self.version)


def _known_op(value: object) -> object:
    # Said here, because the library's own words repeat what was sent.
    if not isinstance(value, dict) or value.get("op") not in get_args(Op):
        raise ValueError(f"must be an object whose op is one of {', '.join(get_args(Op))}")
    return value


BulkOperation = Annotated[
    TaskBulkCreate | TaskBulkUpdate | TaskBulkChange, Field(discriminator="op"), BeforeValidator(_known_op)
]


class TaskBulkRequest(Input):
    """Up to 100 operations, done in order; each sees what those before it did."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"operations": _EXAMPLE, "atomic": False}]})

    operations: Annotated[
        list[BulkOperation], Field(min_length=1, max_length=MOST_OPERATIONS, json_schema_extra={"examples": [_EXAMPLE]})
    ]
    atomic: Annotated[Flag, Field(description="True: all of them or none.")] = False

    def to_operations(self) -> Sequence[bulk.Operation]:
        """The feature's own types, with a refusal in the place of what cannot be read."""
        return [_readable(operation) for operation in self.operations]


def _readable(operation: TaskBulkCreate | TaskBulkUpdate | TaskBulkChange) -> bulk.Operation:
    try:
        return operation.to_operation()
    except NotFound as error:
        return error


class TaskBulkResult(Output):
    """What became of one operation.

    `status` is the code that the single call would have had, or 424 when it was not done because another operation of
    an atomic batch was refused. `task` is null after `delete` and when it was refused.
    """

    index: int
    op: Op
    status: Literal[200, 201, 204, 404, 412, 422, 424]
    task: TaskResponse | None
    error: ItemProblem | None


class TaskBulkResponse(Output):
    """A result for each operation, in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {"index": 0, "op": "delete", "status": 204, "task": None, "error": None},
                        {
                            "index": 1,
                            "op": "complete",
                            "status": 404,
                            "task": None,
                            "error": {"code": "NOT_FOUND", "message": "There is no such task.", "errors": None},
                        },
                    ],
                    "succeeded": 1,
                    "failed": 1,
                }
            ]
        }
    )

    results: list[TaskBulkResult]
    succeeded: int
    failed: int
