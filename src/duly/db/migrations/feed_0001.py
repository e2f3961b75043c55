"""The triggers of revision 0001: whatever happens to a task counts it and writes its change row.

They are in the database so that no statement, ours or an operator's, can change a task without the feed knowing. They
are built from the constants below and nothing else. The counter's row lock makes a user's changes commit in the order
of their positions, without a gap.
"""

from collections.abc import Mapping

from alembic import op

from duly.db.migrations.documents import postgres_document, sqlite_document

# What happens in the trash stays there: whoever follows the feed has lost sight of the task.
_ADDED_TYPE = "CASE WHEN NEW.deleted_at IS NULL THEN 'task.created' ELSE 'task.deleted' END"
_TYPE = """CASE
  WHEN NEW.deleted_at IS NOT NULL THEN 'task.deleted'
  WHEN OLD.deleted_at IS NOT NULL THEN 'task.restored'
  WHEN NEW.completed AND NOT OLD.completed THEN 'task.completed'
  WHEN OLD.completed AND NOT NEW.completed THEN 'task.reopened'
  ELSE 'task.updated' END"""

# What a row adds to each counter: 1 or 0, and nothing while it lies in the trash.
_PENDING = "(CASE WHEN {0}.deleted_at IS NULL AND NOT {0}.completed THEN 1 ELSE 0 END)"
_COMPLETED = "(CASE WHEN {0}.deleted_at IS NULL AND {0}.completed THEN 1 ELSE 0 END)"
_ADDED = (_PENDING.format("NEW"), _COMPLETED.format("NEW"))
_MOVED = tuple(f"{form.format('NEW')} - {form.format('OLD')}" for form in (_PENDING, _COMPLETED))


def _sqlite_body(change: str, moves: tuple[str, ...]) -> str:
    return f"""BEGIN
UPDATE task_counters SET position = position + 1, pending = pending + {moves[0]}, completed = completed + {moves[1]}
 WHERE user_id = NEW.user_id;
INSERT INTO changes (user_id, position, type, task_id, at, session_id, task)
 SELECT user_id, position, {change}, NEW.id, NEW.updated_at, NEW.changed_by, {sqlite_document("NEW")}
 FROM task_counters WHERE user_id = NEW.user_id;
END"""


# How the functions of PostgreSQL come by the document of a row.
PUT_TOGETHER = {row: postgres_document(row) for row in ("NEW", "OLD")}


def _postgres_body(change: str, moves: tuple[str, ...], documents: Mapping[str, str]) -> str:
    return f"""
DECLARE place bigint;
BEGIN
UPDATE task_counters SET position = position + 1, pending = pending + {moves[0]}, completed = completed + {moves[1]}
 WHERE user_id = NEW.user_id RETURNING position INTO place;
INSERT INTO changes (user_id, position, type, task_id, at, session_id, task)
 VALUES (NEW.user_id, place, {change}, NEW.id, NEW.updated_at, NEW.changed_by, {documents["NEW"]});
RETURN NULL;
END"""


# Duly empties its trash and moves no task, so these are for an operator's statements. A row that goes with its user
# tells nobody.
_SQLITE_REMOVED = f"""WHEN OLD.deleted_at IS NULL AND EXISTS (SELECT 1 FROM users WHERE id = OLD.user_id) BEGIN
UPDATE task_counters SET position = position + 1, pending = pending - {_PENDING.format("OLD")},
 completed = completed - {_COMPLETED.format("OLD")} WHERE user_id = OLD.user_id;
INSERT INTO changes (user_id, position, type, task_id, at, task)
 SELECT user_id, position, 'task.deleted', OLD.id, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), {sqlite_document("OLD")}
 FROM task_counters WHERE user_id = OLD.user_id;
END"""


def _postgres_removed(documents: Mapping[str, str]) -> str:
    return f"""
DECLARE place bigint;
BEGIN
UPDATE task_counters SET position = position + 1, pending = pending - {_PENDING.format("OLD")},
 completed = completed - {_COMPLETED.format("OLD")}
 WHERE user_id = OLD.user_id AND EXISTS (SELECT 1 FROM users WHERE id = OLD.user_id) RETURNING position INTO place;
IF FOUND THEN
INSERT INTO changes (user_id, position, type, task_id, at, task)
 VALUES (OLD.user_id, place, 'task.deleted', OLD.id, clock_timestamp(), {documents["OLD"]});
END IF;
RETURN NULL;
END"""


_KEPT = "a task keeps its id and its user"

_START = "INSERT INTO task_counters (user_id, position, pending, completed) VALUES (NEW.id, 0, 0, 0);"
_EVENTS = (("tasks_created", _ADDED_TYPE, _ADDED), ("tasks_changed", _TYPE, _MOVED))
_TRIGGERS = {
    "users_created": "AFTER INSERT ON users",
    "tasks_created": "AFTER INSERT ON tasks",
    "tasks_changed": "AFTER UPDATE ON tasks",
    "tasks_removed": "AFTER DELETE ON tasks",
    "tasks_kept": "BEFORE UPDATE OF id, user_id ON tasks",
}


def _sqlite_bodies() -> dict[str, str]:
    moved = "WHEN NEW.id <> OLD.id OR NEW.user_id <> OLD.user_id"
    bodies = {name: _sqlite_body(change, moves) for name, change, moves in _EVENTS}
    return bodies | {
        "users_created": f"BEGIN {_START} END",
        "tasks_removed": _SQLITE_REMOVED,
        "tasks_kept": f"{moved} BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END",
    }


def _postgres_recorders(documents: Mapping[str, str]) -> dict[str, str]:
    bodies = {name: _postgres_body(change, moves, documents) for name, change, moves in _EVENTS}
    return bodies | {"tasks_removed": _postgres_removed(documents)}


def _postgres_bodies() -> dict[str, str]:
    moved = "NEW.id <> OLD.id OR NEW.user_id <> OLD.user_id"
    return _postgres_recorders(PUT_TOGETHER) | {
        "users_created": f" BEGIN {_START} RETURN NULL; END",
        "tasks_kept": f" BEGIN IF {moved} THEN RAISE EXCEPTION '{_KEPT}'; END IF; RETURN NEW; END",
    }


def create(dialect: str) -> None:
    """Create the triggers in the dialect's own language."""
    if dialect == "sqlite":
        for name, body in _sqlite_bodies().items():
            op.execute(f"CREATE TRIGGER {name} {_TRIGGERS[name]} {body}")
        return
    for name, body in _postgres_bodies().items():
        # What lay in the trash had left the feed already.
        condition = " WHEN (OLD.deleted_at IS NULL)" if name == "tasks_removed" else ""
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        op.execute(f"CREATE TRIGGER {name} {_TRIGGERS[name]} FOR EACH ROW{condition} EXECUTE FUNCTION {name}()")


def replace_functions(documents: Mapping[str, str]) -> None:
    """Let PostgreSQL's functions come by the document of `NEW` and of `OLD` in another way."""
    for name, body in _postgres_recorders(documents).items():
        op.execute(f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")


def drop(dialect: str) -> None:
    """Drop them; PostgreSQL's functions outlive their tables."""
    for name, event in _TRIGGERS.items():
        if dialect == "sqlite":
            op.execute(f"DROP TRIGGER {name}")
        else:
            op.execute(f"DROP TRIGGER {name} ON {event.rpartition(' ')[2]}")
            op.execute(f"DROP FUNCTION {name}()")
