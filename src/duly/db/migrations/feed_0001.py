"""The triggers of revision 0001: every insert and update of a task counts it and writes its change row.

They are in the database so that no statement, ours or an operator's, can change a task without the feed knowing. They
are built from the constants below and nothing else. The counter's row lock makes a user's changes commit in the order
of their positions, without a gap.
"""

from alembic import op

_FIELDS = (
    ("id", "text"), ("user_id", "text"), ("title", "text"), ("description", "text"), ("completed", "boolean"),
    ("completed_at", "instant"), ("priority", "text"), ("due_date", "instant"), ("tags", "json"),
    ("version", "number"), ("created_at", "instant"), ("updated_at", "instant"),
)  # fmt: skip


def _sqlite_snapshot() -> str:
    forms = {
        "text": "NEW.{0}",
        "instant": "NEW.{0}",
        "number": "NEW.{0}",
        "json": "json(NEW.{0})",
        "boolean": "json(CASE NEW.{0} WHEN 1 THEN 'true' ELSE 'false' END)",
    }
    return "json_object(" + ", ".join(f"'{name}', {forms[kind].format(name)}" for name, kind in _FIELDS) + ")"


def _postgres_snapshot() -> str:
    instant = """'"' || to_char(NEW.{0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"'"""
    forms = {
        "text": "coalesce(to_json(NEW.{0})::text, 'null')",
        "instant": f"coalesce({instant}, 'null')",
        "number": "NEW.{0}::text",
        "json": "NEW.{0}::text",
        "boolean": "NEW.{0}::text",
    }
    pairs = (f"""'"{name}":' || {forms[kind].format(name)}""" for name, kind in _FIELDS)
    return "'{' || " + " || ',' || ".join(pairs) + " || '}'"


_TYPE = """CASE
  WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL THEN 'task.deleted'
  WHEN OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL THEN 'task.restored'
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
 SELECT user_id, position, {change}, NEW.id, NEW.updated_at, NEW.changed_by, {_sqlite_snapshot()}
 FROM task_counters WHERE user_id = NEW.user_id;
END"""


def _postgres_body(change: str, moves: tuple[str, ...]) -> str:
    return f"""
DECLARE place bigint;
BEGIN
UPDATE task_counters SET position = position + 1, pending = pending + {moves[0]}, completed = completed + {moves[1]}
 WHERE user_id = NEW.user_id RETURNING position INTO place;
INSERT INTO changes (user_id, position, type, task_id, at, session_id, task)
 VALUES (NEW.user_id, place, {change}, NEW.id, NEW.updated_at, NEW.changed_by, {_postgres_snapshot()});
RETURN NULL;
END"""


_START = "INSERT INTO task_counters (user_id, position, pending, completed) VALUES (NEW.id, 0, 0, 0);"
_EVENTS = (("tasks_created", "INSERT", "'task.created'", _ADDED), ("tasks_changed", "UPDATE", _TYPE, _MOVED))


def create(dialect: str) -> None:
    """Create the triggers in the dialect's own language."""
    if dialect == "sqlite":
        op.execute(f"CREATE TRIGGER users_created AFTER INSERT ON users BEGIN {_START} END")
        for name, event, change, moves in _EVENTS:
            op.execute(f"CREATE TRIGGER {name} AFTER {event} ON tasks {_sqlite_body(change, moves)}")
        return
    bodies = {"users_created": f" BEGIN {_START} RETURN NULL; END"}
    bodies |= {name: _postgres_body(change, moves) for name, _, change, moves in _EVENTS}
    for name, body in bodies.items():
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    for name, event, table in (
        ("users_created", "INSERT", "users"),
        ("tasks_created", "INSERT", "tasks"),
        ("tasks_changed", "UPDATE", "tasks"),
    ):
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")


def drop(dialect: str) -> None:
    """Drop them; PostgreSQL's functions outlive their tables."""
    for name, table in (("tasks_changed", "tasks"), ("tasks_created", "tasks"), ("users_created", "users")):
        if dialect == "sqlite":
            op.execute(f"DROP TRIGGER {name}")
        else:
            op.execute(f"DROP TRIGGER {name} ON {table}")
            op.execute(f"DROP FUNCTION {name}()")
