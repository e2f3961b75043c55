"""Every statement about somebody's rows carries that user, so that the user can be the key by which rows are spread."""

import importlib
import pkgutil
import re

import pytest
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

import duly
from duly.db.statements import Statement

OWNED = sorted(table.name for table in SQLModel.metadata.tables.values() if "user_id" in table.columns)
CARRIES = re.compile(
    r"\buser_id (?:=|IN) |\(\w+\.user_id \|\| ''\) = "
    r"|INSERT INTO \w+ \([^)]*\buser_id\b|\((?:\w+\.)?user_id, [^)]*\) IN"
)
# What looks across all users, and why that is no request of a user: each would be run once on every shard.
ACROSS = {
    "duly.identity.queries.ORIGINS_AFTER": "rotating the keys of encrypted fields",
    "duly.identity.queries.RESEAL_ORIGIN": "rotating the keys of encrypted fields",
    "duly.identity.queries.LIVE_BLACKLIST": "each process knows every session that ended",
    "duly.identity.queries.RECENT_BLACKLIST": "each process knows every session that ended",
    "duly.identity.sweep_queries.OVER_AFTER": "the sweep of sessions that are long over",
    "duly.tasks.integrity_queries.ATTACHMENTS_AFTER": "the doctor",
    "duly.tasks.integrity_queries.TOTALS": "the doctor",
    "duly.tasks.attachment_queries.LIST_KEYS": "the sweep of the file store",
    "duly.tasks.history_queries.PURGE_TRASH": "the sweep of the trash",
    "duly.tasks.stats_queries.LATEST_WRITERS": "warming the cache",
    "duly.tasks.stats_queries.LATEST_SESSIONS": "warming the cache",
}
# What begins with a secret that somebody presents: a directory from its hash to the user comes before the shard.
BY_SECRET = {
    "duly.identity.queries.TOUCH_SESSION",
    "duly.identity.queries.FIND_REFRESH_TOKEN",
    "duly.identity.recovery_queries.FIND_TOKEN",
    "duly.identity.recovery_queries.USE_TOKEN",
}


def statements() -> dict[str, Statement]:
    """Every statement that a module holds, by its name."""
    found: dict[str, Statement] = {}
    for module in pkgutil.walk_packages(duly.__path__, "duly."):
        if ".migrations" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            for key, one in values:
                if isinstance(one, Statement):
                    found.setdefault(f"{module.name}.{name}{f'[{key}]' if key else ''}", one)
    return found


@pytest.mark.covers("A096", "C136")
def test_each_statement_about_somebodys_rows_names_the_user() -> None:
    dialect = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
    seen, without = 0, set()
    for name, statement in statements().items():
        sql = statement.plan(dialect).sql
        if any(re.search(rf"\b{table}\b", sql) for table in OWNED):
            seen += 1
            # A sweep goes by age, whoever's the rows are.
            is_sweep = sql.startswith("DELETE") and re.search(r"\b(created_at|expires_at|ended_at) < ", sql)
            if not CARRIES.search(sql) and not is_sweep:
                without.add(name)
    assert seen > 50
    assert without == ACROSS.keys() | BY_SECRET
