"""PocketBase with its defaults: owner rules, Duly's fields and indexes, rows put in its file while it is stopped."""

import secrets
import sqlite3
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import environment
from bench.client import Client
from bench.progress import Progress
from bench.servers import Server
from bench.workload import PAIR_COUNT, Call, Pair, create_body, task_fields

RECORDS = "/api/collections/tasks/records"
ADMIN_EMAIL = "admin@example.com"
OWNER_RULE = "owner = @request.auth.id"
ID_ALPHABET = string.ascii_lowercase + string.digits
ID_LENGTH = 15
CALLS = {
    "R1": Call("GET", f"{RECORDS}/{{id}}"),
    "R2": Call("GET", f"{RECORDS}?perPage=20&sort=-created"),
    "W1": Call("POST", RECORDS, create_body(owner="{user}")),
}
INSERT = """
insert into tasks (id, owner, title, description, completed, completed_at, priority, due_date, tags, version,
    created, updated)
values (:id, :owner, :title, :description, false, '', :priority, '2027-03-01 09:00:00.000Z', '[]', 1,
    strftime('%Y-%m-%d %H:%M:%fZ', 'now', :age), strftime('%Y-%m-%d %H:%M:%fZ', 'now', :age))
"""


class PocketBase(Server):
    """One process that uses every core."""

    calls = CALLS

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "pb_data"

    def prepare(self) -> list[Pair]:
        # Hexadecimal: a password that began with a dash would be read as an option.
        password = secrets.token_hex(18)
        self._run("superuser", "upsert", ADMIN_EMAIL, password)
        self._serve()
        with Client(self.port) as client:
            token = self._login(client, "_superusers", ADMIN_EMAIL, password)
            users = client.expect("GET", "/api/collections/users", token=token)
            client.expect("POST", "/api/collections", token=token, body=tasks_collection(users["id"]))
        tokens = self._create_users(token)
        self.close()
        pairs = self._insert_tasks(tokens)
        self._serve()
        return pairs

    def describe(self) -> str:
        return self._run("--version").strip().replace("pocketbase version", "PocketBase")

    def _run(self, *arguments: str) -> str:
        environment.require_peers()
        return environment.run_tool([str(environment.POCKETBASE), *arguments, f"--dir={self.data}"], cwd=self.folder)

    def _serve(self) -> None:
        address = f"--http=127.0.0.1:{self.port}"
        self.spawn([str(environment.POCKETBASE), "serve", address, f"--dir={self.data}"], "/api/health")

    def _login(self, client: Client, collection: str, email: str, password: str) -> str:
        path = f"/api/collections/{collection}/auth-with-password"
        token: str = client.expect("POST", path, body={"identity": email, "password": password})["token"]
        return token

    def _create_users(self, admin_token: str) -> dict[str, str]:
        """Create the users and log each in; returns tokens by user id."""
        progress = Progress(f"{self.label}: users", self.bench.scale.users)

        def create(number: int) -> tuple[str, str]:
            email, password = f"user{number}@example.com", secrets.token_urlsafe(18)
            body = {"email": email, "password": password, "passwordConfirm": password}
            with Client(self.port) as client:
                user = client.expect("POST", "/api/collections/users/records", token=admin_token, body=body)
                token = self._login(client, "users", email, password)
            progress.advance()
            return user["id"], token

        with ThreadPoolExecutor(4) as pool:
            return dict(pool.map(create, range(self.bench.scale.users)))

    def _insert_tasks(self, tokens: dict[str, str]) -> list[Pair]:
        tasks = self.bench.scale.tasks
        connection = sqlite3.connect(self.data / "data.db")
        try:
            with connection:
                connection.executemany(INSERT, make_rows(list(tokens), tasks))
            connection.execute("analyze")
            connection.execute("pragma wal_checkpoint(truncate)")
            picked = connection.execute("select id, owner from tasks order by random() limit ?", (PAIR_COUNT,))
            return [Pair(tokens[owner], task, owner) for task, owner in picked]
        finally:
            connection.close()


def make_rows(owners: list[str], tasks: int) -> Iterator[dict[str, str]]:
    """Rows for every owner in turn, a second apart, the last one of each the newest."""
    for number in range(tasks):
        fields = task_fields(number)
        for owner in owners:
            record_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
            yield fields | {"id": record_id, "owner": owner, "age": f"-{tasks - number} seconds"}


def tasks_collection(users_id: str) -> dict[str, Any]:
    """The collection as its admin page would make it: the owner reads, writes and lists, nobody else."""
    return {
        "name": "tasks",
        "type": "base",
        "listRule": OWNER_RULE,
        "viewRule": OWNER_RULE,
        "createRule": OWNER_RULE,
        "updateRule": OWNER_RULE,
        "deleteRule": OWNER_RULE,
        "fields": [
            {"name": "owner", "type": "relation", "collectionId": users_id, "required": True, "cascadeDelete": True},
            {"name": "title", "type": "text", "required": True, "max": 200},
            {"name": "description", "type": "text", "max": 2000},
            {"name": "completed", "type": "bool"},
            {"name": "completed_at", "type": "date"},
            {"name": "priority", "type": "select", "values": ["low", "medium", "high", "urgent"]},
            {"name": "due_date", "type": "date"},
            {"name": "tags", "type": "json"},
            {"name": "version", "type": "number"},
            {"name": "created", "type": "autodate", "onCreate": True},
            {"name": "updated", "type": "autodate", "onCreate": True, "onUpdate": True},
        ],
        "indexes": [
            "create index tasks_by_state on tasks (owner, completed, created)",
            "create index tasks_newest on tasks (owner, created desc)",
        ],
    }
