"""`duly unlock`: an operator lets somebody in who tried too many wrong passwords."""

from pathlib import Path

import httpx
import pytest

from duly.identity.lockout import FROM_ONE_NETWORK
from tests.commands import answer, refusal, run_duly
from tests.fixtures.application import PASSWORD, Api
from tests.fixtures.stored import Stored


async def log_in(api: Api, email: str, password: str = PASSWORD) -> httpx.Response:
    return await api.client.post("/api/v1/auth/login", json={"email": email, "password": password})


@pytest.mark.covers("A092", "A094")
@pytest.mark.parametrize("name", ["ANN@example.com", "Ann.B"])
async def test_a_locked_person_gets_in_again_and_it_is_on_record(
    api: Api, database_url: str, stored: Stored, tmp_path: Path, name: str
) -> None:
    ann = await api.register("ann@example.com", username="ann.b")
    for _ in range(FROM_ONE_NETWORK):
        assert (await log_in(api, ann.email, "wrong-password-1")).status_code == 401
    assert (await log_in(api, ann.email)).status_code == 423
    assert answer(await run_duly(tmp_path, "unlock", name, database_url=database_url)) == f"{name} can sign in again.\n"
    assert (await log_in(api, ann.email)).status_code == 200
    recorded = "SELECT actor_id, target_id FROM audit_log WHERE event = 'user.unlocked'"
    assert list(await stored.rows(recorded)) == [(None, ann.user_id)]
    said = answer(await run_duly(tmp_path, "unlock", name, database_url=database_url))
    assert "was not locked" in said
    assert len(await stored.rows(recorded)) == 1


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_name_that_nobody_has_is_one_line(database_url: str, stored: Stored, tmp_path: Path) -> None:
    for name in ("nobody@example.com", "nobody", ""):
        line = refusal(await run_duly(tmp_path, "unlock", name, database_url=database_url))
        assert line.startswith("There is no account"), name
    assert await stored.value("SELECT count(*) FROM audit_log") == 0
