"""The rules without HTTP: identity's and the tasks' verbs, called as any contract calls them."""

import ast
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duly.app import create_app
from duly.audit.events import NOWHERE
from duly.cache.cache import Cache
from duly.db.unit import Database
from duly.errors import NotFound, Unauthenticated
from duly.identity import logins
from duly.identity.accounts import AccountDraft
from duly.identity.context import Identity
from duly.identity.principals import Principal
from duly.kit.paging import Cursors
from duly.operations.assembly import assemble
from duly.settings import Settings
from duly.tasks import lists, tasks
from duly.tasks.drafts import TaskDraft, TaskPatch
from duly.tasks.lists import TaskFilter
from tests.fixtures.application import PASSWORD

SOURCE = Path(__file__).parent.parent / "src" / "duly"


@pytest.fixture
async def identity(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[Identity]:
    settings = Settings(_env_file=None, database_url=database_url, data_dir=tmp_path)  # type: ignore[call-arg]
    parts = await assemble(settings, database)
    yield parts.identity
    parts.identity.hasher.close()


async def register(identity: Identity, database: Database, email: str) -> Principal:
    async with database.unit() as unit:
        opened = await logins.register(identity, unit, AccountDraft(email), PASSWORD, origin=NOWHERE)
    assert opened is not None
    return Principal(opened[0].id, None, None, 0.0)


@pytest.mark.covers("A064", "A065", "A080", "A083", "B022")
async def test_somebody_registers_and_authenticates_without_http(identity: Identity, database: Database) -> None:
    ann = await register(identity, database, "ann@example.com")
    async with database.unit() as unit:
        account, pair = await logins.log_in(identity, unit, "ann@example.com", PASSWORD, origin=NOWHERE)
    assert (account.id, pair.expires_in) == (ann.user_id, 900)
    with pytest.raises(Unauthenticated) as refused:
        async with database.unit() as unit:
            await logins.log_in(identity, unit, "ann@example.com", "wrong-orbit-92", origin=NOWHERE)
    assert refused.value.code == "INVALID_CREDENTIALS"


@pytest.mark.covers("A083", "B030", "E100")
async def test_a_task_lives_its_life_without_http(identity: Identity, database: Database) -> None:
    ann, ben = (
        await register(identity, database, "ann@example.com"),
        await register(identity, database, "b@example.com"),
    )
    async with database.unit() as unit:
        task = await tasks.create_task(unit, ann, TaskDraft("Water the plants"))
    async with database.unit() as unit:
        await tasks.update_task(unit, ann, task.id, TaskPatch(title="Water all plants"), expected=None)
    async with database.unit() as unit:
        done = await tasks.toggle_task(unit, ann, task.id, expected=None)
    assert '"completed":true' in done.document.replace(" ", "")
    page = await lists.list_tasks(database, Cursors(b"k" * 32), Cache(), ann, TaskFilter())
    assert (page.total, "Water all plants" in page.documents[0]) == (1, True)
    with pytest.raises(NotFound):
        await tasks.find_task(database, ben, task.id)
    async with database.unit() as unit:
        await tasks.trash_task(unit, ann, task.id, expected=None)
    assert (await lists.list_tasks(database, Cursors(b"k" * 32), Cache(), ann, TaskFilter())).total == 0


@pytest.mark.covers("A064", "B023", "E100")
def test_no_rule_holds_sql_of_its_own() -> None:
    for feature in ("identity", "tasks", "audit", "outbox"):
        for path in (SOURCE / feature).glob("*.py"):
            if path.name.endswith(("queries.py", "tables.py")):
                continue
            imported = {
                node.module.partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and node.module
            }
            assert "sqlalchemy" not in imported, f"{path.name} builds statements; they belong into a queries module"


@pytest.mark.covers("A043", "A045", "B019", "B029", "B048")
def test_the_document_names_the_schemas_that_clients_generate(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
    schemas = create_app(settings).openapi()["components"]["schemas"]
    assert {"RegisterRequest", "LoginRequest", "AuthResponse", "TaskCreate", "TaskUpdate", "TaskResponse"} <= set(
        schemas
    )
