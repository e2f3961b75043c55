"""The schema's revisions: complete, reversible, all or nothing, one process at a time, on both dialects."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import ForeignKeyConstraint
from sqlmodel import SQLModel

import duly.app
from duly.db import migrate
from duly.db.apsw_dialect import make_engine
from duly.db.migrations import documents
from tests.schemas import address_of, read_schema, run_sql

HEAD = migrate.head()
on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
PERSON = """INSERT INTO users (id, email, version, created_at, updated_at)
    VALUES ('u1', 'ann@example.com', 1, '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')"""
SESSION = """INSERT INTO sessions (id, user_id, created_at, updated_at, last_used_at, expires_at) VALUES
    ('s1', 'u1', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z',
     '2027-01-01T00:00:00.000000Z')"""


async def create_from_tables(url: str) -> None:
    """Make the tables of the code without any revision."""
    address = address_of(url)
    if address.path is not None:
        with make_engine(address.path).begin() as connection:
            SQLModel.metadata.create_all(connection)
        return
    engine = create_async_engine("postgresql+asyncpg://", connect_args=address.asyncpg_arguments())
    async with engine.begin() as server:
        # What a stored column is computed by belongs to no table.
        await server.exec_driver_sql(documents.FUNCTION)
        await server.run_sync(SQLModel.metadata.create_all)
    await engine.dispose()


def is_full_text(row: tuple[str, ...]) -> bool:
    """Whether it is a part of the index for the search, which only the revision makes."""
    return row[0].startswith(migrate.SEARCH_TABLE) or row[1] == migrate.SEARCH_INDEX


def run_python(code: str) -> object:
    """What a fresh interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.covers("A020", "A022", "A024", "A025", "A026", "A027", "A028")
@pytest.mark.covers("B012", "B016", "C008", "C030", "C033", "C038")
async def test_an_empty_database_is_upgraded_to_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    address = address_of(empty_database_url)
    assert await migrate.current(address) is None
    assert await migrate.upgrade(address) == (None, HEAD)
    assert await migrate.current(address) == HEAD
    assert await migrate.differences(address) == []
    upgraded = await read_schema(empty_database_url)
    await migrate.downgrade(address, "base")
    await create_from_tables(empty_database_url)
    declared = await read_schema(empty_database_url)
    assert len(declared["columns"]) > 60
    for part in ("columns", "constraints", "indexes"):
        assert [row for row in upgraded[part] if not is_full_text(row)] == declared[part]


@pytest.mark.covers("A026")
async def test_downgrade_leaves_nothing_and_the_next_upgrade_makes_the_same_again(database_url: str) -> None:
    address = address_of(database_url)
    await run_sql(database_url, PERSON)
    first = await read_schema(database_url)
    assert await migrate.downgrade(address, "base") == (HEAD, None)
    assert not any((await read_schema(database_url)).values())
    assert await migrate.upgrade(address) == (None, HEAD)
    assert await read_schema(database_url) == first
    assert await run_sql(database_url, "SELECT id FROM users") == []


async def test_an_upgrade_at_head_changes_nothing(database_url: str) -> None:
    await run_sql(database_url, PERSON)
    before = await read_schema(database_url)
    assert await migrate.upgrade(address_of(database_url)) == (HEAD, HEAD)
    assert await read_schema(database_url) == before
    assert await run_sql(database_url, "SELECT id FROM users") == [("u1",)]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP INDEX ix_tasks_user_id_completed", "ix_tasks_user_id_completed"),
        ("DROP TABLE changes", "changes"),
        ("ALTER TABLE users ADD COLUMN colour text", "colour"),
        ("DROP TRIGGER tasks_changed", "trigger tasks_changed of tasks is missing"),
        ("DROP {full_text}", "the full-text index {name} of task_words is missing"),
    ],
)
async def test_what_the_schema_lacks_or_has_too_much_is_named(
    database_url: str, dialect: str, damage: str, named: str
) -> None:
    if damage.startswith("DROP TRIGGER") and dialect == "postgresql":
        damage += " ON tasks"
    full_text = {"sqlite": ("TABLE", migrate.SEARCH_TABLE), "postgresql": ("INDEX", migrate.SEARCH_INDEX)}[dialect]
    await run_sql(database_url, damage.format(full_text=" ".join(full_text)))
    named = named.format(name=full_text[1])
    assert any(named in difference for difference in await migrate.differences(address_of(database_url)))


@on_postgresql
async def test_a_trigger_that_is_switched_off_counts_as_missing(database_url: str) -> None:
    await run_sql(database_url, "ALTER TABLE tasks DISABLE TRIGGER tasks_created")
    assert await migrate.differences(address_of(database_url)) == ["trigger tasks_created of tasks is missing"]


def test_looking_at_a_sqlite_file_that_does_not_exist_does_not_make_it(tmp_path: Path) -> None:
    address = address_of(f"sqlite:///{tmp_path}/absent.db")
    assert asyncio.run(migrate.current(address)) is None
    assert any("users" in difference for difference in asyncio.run(migrate.differences(address)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.covers("A026")
@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_the_printed_sql_is_the_same_each_time_and_needs_no_database(target: str) -> None:
    printed = migrate.upgrade_sql(target)
    assert printed == migrate.upgrade_sql(target)
    assert "CREATE TABLE tasks" in printed
    assert "CREATE TRIGGER tasks_changed" in printed


@pytest.mark.covers("C037", "C039")
async def test_the_printed_sql_makes_the_same_schema_as_an_upgrade(empty_database_url: str, dialect: str) -> None:
    await run_sql(empty_database_url, migrate.upgrade_sql(dialect))
    loaded = await read_schema(empty_database_url)
    address = address_of(empty_database_url)
    assert await migrate.current(address) == HEAD
    assert await migrate.differences(address) == []
    await migrate.downgrade(address, "base")
    await migrate.upgrade(address)
    assert await read_schema(empty_database_url) == loaded


def test_the_revisions_import_no_model() -> None:
    loaded = run_python(
        "import json, sys\n"
        "from duly.db import migrations\n"
        "from alembic.script import ScriptDirectory\n"
        "revisions = list(ScriptDirectory(migrations.__path__[0]).walk_revisions())\n"
        "print(json.dumps([len(revisions), sorted(sys.modules)]))"
    )
    assert isinstance(loaded, list)
    count, modules = loaded
    ours = {name for name in modules if name.partition(".")[0] == "duly"}
    assert count > 0
    assert {name for name in ours if not name.startswith("duly.db.migrations")} == {"duly", "duly.db"}
    assert "sqlmodel" not in modules


def test_the_command_line_compares_with_every_table_of_the_application() -> None:
    code = "import json; from sqlmodel import SQLModel; import {}; print(json.dumps(sorted(SQLModel.metadata.tables)))"
    assert run_python(code.format("duly.cli.migrating")) == run_python(code.format("duly.app"))
    assert duly.app.create_app is not None


@pytest.mark.covers("A096", "A133", "C136", "C031", "C032", "C034", "C035", "E013", "E052", "E053")
async def test_the_tables_have_the_keys_and_indexes_that_queries_need(database_url: str, dialect: str) -> None:
    schema = await read_schema(database_url)
    names = {row[1] for part in ("constraints", "indexes") for row in schema[part]}
    assert {"uq_users_email", "uq_users_username_key", "uq_users_issuer_subject"} <= names
    assert {"fk_tasks_user_id_users", "fk_sessions_user_id_users", "ck_tasks_title", "ck_users_role"} <= names
    assert {"ix_tasks_user_id_completed", "ix_tasks_user_id_created_at", "ix_tasks_user_id_due_key"} <= names
    assert {"ix_sessions_user_id_ended_at", "ix_refresh_tokens_session_id"} <= names
    triggers = migrate.SQLITE_TRIGGERS if dialect == "sqlite" else migrate.TRIGGERS
    assert {row[1] for row in schema["triggers"]} == set(triggers)
    with pytest.raises(Exception, match=r"(?i)unique"):
        await run_sql(database_url, f"{PERSON}; {PERSON.replace('u1', 'u2')}")


def test_every_foreign_key_leads_an_index_so_that_a_cascade_reads_no_whole_table() -> None:
    for table in SQLModel.metadata.tables.values():
        led = {next(iter(index.columns.keys())) for index in table.indexes}
        led.add(next(iter(table.primary_key.columns.keys())))
        for constraint in table.constraints:
            if isinstance(constraint, ForeignKeyConstraint):
                assert constraint.column_keys[0] in led, f"{table.name}.{constraint.column_keys[0]}"


async def test_a_schema_that_was_made_otherwise_is_refused_and_left_alone(database_url: str) -> None:
    await run_sql(database_url, "DELETE FROM alembic_version")
    await run_sql(database_url, PERSON)
    with pytest.raises(Exception, match="already exists"):
        await migrate.upgrade(address_of(database_url))
    assert await run_sql(database_url, "SELECT id FROM users") == [("u1",)]
    assert await migrate.current(address_of(database_url)) is None


@on_postgresql
async def test_a_revision_does_not_wait_for_long_behind_somebody_who_holds_a_table(database_url: str) -> None:
    """Whoever asks for the table meanwhile waits behind the revision."""
    before = await read_schema(database_url)
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE tasks IN ACCESS SHARE MODE")
            with pytest.raises(Exception, match="lock timeout"):
                await migrate.downgrade(address_of(database_url), "base")
    finally:
        await holder.close()
    assert await read_schema(database_url) == before
