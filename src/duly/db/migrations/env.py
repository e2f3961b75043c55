"""Runs the revisions on the connection that `duly.db.migrate` hands over, or prints them as SQL."""

from typing import Any, Literal

from alembic import context

from duly.db import migrate
from duly.db.types import Instant

config = context.config


def _number_revision(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """A new revision is numbered after the one before it, as in 0002."""
    for script in directives:
        script.rev_id = f"{int(context.script.get_current_head() or 0) + 1:04}"


def _spell_type(kind: str, item: Any, autogenerate: Any) -> str | Literal[False]:
    """A revision must not change when the code does, so it spells our own types out."""
    if kind != "type" or not isinstance(item, Instant):
        return False
    autogenerate.imports.add("from sqlalchemy.dialects import postgresql")
    return 'sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")'


def _run(**target: Any) -> None:
    context.configure(
        **target,
        target_metadata=config.attributes["metadata"],
        render_as_batch=True,
        render_item=_spell_type,
        process_revision_directives=_number_revision,
        compare_type=True,
        compare_server_default=False,
        include_name=migrate.is_told_by_name,
        include_object=migrate.is_compared,
        # One transaction around everything: an interrupted upgrade leaves the schema as it was, on SQLite too.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if "metadata" not in config.attributes:
    migrate.prepare_for_alembic(config)
if context.is_offline_mode():
    _run(dialect_name=config.attributes["dialect"], literal_binds=True)
elif "connection" in config.attributes:
    _run(connection=config.attributes["connection"])
else:
    migrate.run_for_alembic(config, lambda connection: _run(connection=connection))
