"""The route class of everything below /tasks, and the task id in its paths."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator
from starlette.routing import Match
from starlette.types import Scope

from duly.tasks import tasks
from duly.web.route import ContractRoute

_FIXED: set[str] = set()


class TaskRoute(ContractRoute):
    """A fixed path such as `/tasks/trash` is no task's, whatever the method: PUT to it is 405."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if "{" not in path:
            _FIXED.add(path.rpartition("/")[2])

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette tries the next route for another method; here that one must not take over."""
        match, found = super().matches(scope)
        if match is not Match.NONE and found["path_params"].get("task_id") in _FIXED:
            return Match.NONE, {}
        return match, found


def _storable(task_id: str) -> str:
    # What no id can be is answered like an id that nobody has, and never reaches the database.
    if len(task_id) > 64 or not task_id.isascii() or not task_id.isprintable():
        raise tasks.missing()
    return task_id


TaskId = Annotated[str, Path(description="The task's id.", json_schema_extra={"maxLength": 64}),
                   AfterValidator(_storable)]  # fmt: skip
