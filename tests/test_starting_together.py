"""Two servers that start at once on an empty database: one migrates, one key is made, and both serve."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fixtures.application import PASSWORD
from tests.live_clients import serve
from tests.schemas import read_schema

PATIENCE = 20.0


@pytest.fixture
def schema(database_url: str) -> object:
    """What one server alone makes."""
    return asyncio.run(read_schema(database_url))


def test_two_servers_that_start_at_once_on_an_empty_database_both_serve(
    empty_database_url: str, schema: object, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        # One folder: the key that signs tokens is made there by whoever comes first.
        starting = [pool.submit(serve, tmp_path, database_url=empty_database_url) for _ in range(2)]
        servers = [one.result() for one in starting]
    try:
        body = {"email": "ann@example.com", "password": PASSWORD}
        token = None
        for server in servers:
            with httpx.Client(base_url=f"{server.base_url}/api/v1", timeout=PATIENCE, trust_env=False) as client:
                if token is None:
                    token = client.post("/auth/register", json=body).json()["access_token"]
                headers = {"Authorization": f"Bearer {token}"}
                assert client.post("/tasks", json={"title": "A"}, headers=headers).status_code == 201
        assert asyncio.run(read_schema(empty_database_url)) == schema
        assert [server.stop() for server in servers] == [0, 0]
        assert all("Traceback" not in server.log() for server in servers)
    finally:
        for server in servers:
            server.kill()
