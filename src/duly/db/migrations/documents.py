"""A task's JSON document as SQL of each dialect, which the revisions have in common and `tasks/tables.py` refers to.

What is here never changes: databases were made with it.
"""

FIELDS = (
    ("id", "text"), ("user_id", "text"), ("title", "text"), ("description", "text"), ("completed", "boolean"),
    ("completed_at", "instant"), ("priority", "text"), ("due_date", "instant"), ("tags", "json"),
    ("version", "number"), ("created_at", "instant"), ("updated_at", "instant"),
)  # fmt: skip


def sqlite_document(row: str = "") -> str:
    """The document of a row such as `NEW`, or of the row at hand."""
    row = row and f"{row}."
    forms = {
        "text": "{0}",
        "instant": "{0}",
        "number": "{0}",
        "json": "json({0})",
        "boolean": "json(CASE {0} WHEN 1 THEN 'true' ELSE 'false' END)",
    }
    pairs = (f"'{name}', {forms[kind].format(f'{row}{name}')}" for name, kind in FIELDS)
    return f"json_object({', '.join(pairs)})"


def postgres_document(row: str = "") -> str:
    """The same, with a blank after each comma of the tags."""
    row = row and f"{row}."
    instant = """'"' || to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"'"""
    forms = {
        "text": "coalesce(to_json({0})::text, 'null')",
        "instant": f"coalesce({instant}, 'null')",
        "number": "{0}::text",
        "json": "{0}::text",
        "boolean": "{0}::text",
    }
    pairs = (f"""'"{name}":' || {forms[kind].format(f"{row}{name}")}""" for name, kind in FIELDS)
    return "'{' || " + " || ',' || ".join(pairs) + " || '}'"


_KINDS = {"text": "varchar", "instant": "timestamptz", "number": "integer", "json": "jsonb", "boolean": "boolean"}
_NAMES = ", ".join(name for name, _ in FIELDS)
_PARAMETERS = ", ".join(f"{name} {_KINDS[kind]}" for name, kind in FIELDS)

FUNCTION = f"""CREATE FUNCTION task_document({_PARAMETERS}) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
$$BEGIN RETURN {postgres_document()}; END$$"""
"""What PostgreSQL computes a stored column by has to be immutable. With these formats `to_json` and `to_char` depend on
no setting, which they do not say of themselves.
"""
COLUMN = {"sqlite": sqlite_document(), "postgresql": f"task_document({_NAMES})"}
"""What the column `document` is computed from."""
