"""`duly rotate-keys`: new keys in the place of old ones, and nobody notices."""

from pathlib import Path
from typing import Any

import pytest

from duly.audit.events import Event, Origin
from duly.db.unit import Database
from duly.kit.ciphers import key_id
from duly.kit.secrets import derive_key
from duly.operations import keys
from duly.operations.assembly import Parts, assemble
from duly.settings import Settings
from tests.commands import answer, refusal, run_duly
from tests.fixtures.application import PASSWORD, Api, Person, StartApp, running
from tests.fixtures.server import free_port
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored

OLD, NEW = "Zk3vPq8nWd5rTy7uXa2cJh4bMs6gFe0001", "Hj9mBe4sLf6gRw1oQt0xVn3kDp8zYc0002"
SEALED = (
    "SELECT origin FROM sessions WHERE origin IS NOT NULL "
    "UNION ALL SELECT origin FROM audit_log WHERE origin IS NOT NULL "
    "UNION ALL SELECT payload FROM outbox WHERE payload IS NOT NULL"
)


def field_key_id(secret: str) -> str:
    return key_id(derive_key(secret, "field-encryption"))


async def keys_in_use(stored: Stored) -> set[str]:
    """The ids of the keys under which something in the database is encrypted."""
    return {row[0].split(".")[1] for row in await stored.rows(SEALED)}


async def known_keys(stored: Stored) -> set[str]:
    return {row[0] for row in await stored.rows("SELECT id FROM field_keys")}


def application(database_url: str, tmp_path: Path, **settings: Any) -> Any:
    """The application until the block ends, so that a test can start it again."""
    values = {"database_url": database_url, "data_dir": tmp_path, "log_level": "error", **settings}
    return running(Settings(_env_file=None, **values))


async def agents_of(person: Person) -> list[str]:
    answered = await person.get("/auth/sessions")
    assert answered.status_code == 200, answered.text
    return [session["user_agent"] for session in answered.json()["items"]]


@pytest.mark.covers("A095")
async def test_every_field_is_under_the_newest_key_and_reads_as_before(
    mail_server: MailServer, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    mail_server.mode = "451"
    before = {"field_encryption_key": (OLD,), **mail_server.settings}
    async with application(database_url, tmp_path, **before) as api:
        ann = await api.register("ann@example.com")
        await api.client.post(
            "/api/v1/auth/login", headers={"User-Agent": "Watcher/1"}, json={"email": ann.email, "password": PASSWORD}
        )
        agents = await agents_of(ann)
    assert len(agents) == 2
    assert await keys_in_use(stored) == await known_keys(stored) == {field_key_id(OLD)}
    fields = len(await stored.rows(SEALED))
    said = answer(
        await run_duly(tmp_path, "rotate-keys", database_url=database_url, field_encryption_key=f"{NEW},{OLD}")
    )
    assert said.startswith(f"{fields} fields were encrypted under the newest key")
    assert f"FIELD_ENCRYPTION_KEY: value 2 (key {field_key_id(OLD)}) encrypts nothing any more; remove it" in said
    assert OLD not in said
    assert await keys_in_use(stored) == await known_keys(stored) == {field_key_id(NEW)}
    event = [("success", None)]
    assert list(await stored.rows("SELECT outcome, actor_id FROM audit_log WHERE event = 'key.rotated'")) == event
    mail_server.mode = "ok"
    async with application(database_url, tmp_path, **before | {"field_encryption_key": (NEW,)}) as api:
        assert await agents_of(Person(api.client, ann.user_id, "", ann.access_token, "")) == agents
        await mail_server.wait_for("ann@example.com")
        verdict = await api.app.state.services.chain.verify(api.app.state.services.database)
        assert (verdict.valid, verdict.fault) == (True, None)
    again = answer(await run_duly(tmp_path, "rotate-keys", database_url=database_url, field_encryption_key=NEW))
    assert again.startswith("0 fields")
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'key.rotated'") == 1


async def test_without_the_key_that_fields_need_nothing_starts(
    start_app: StartApp, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    api = await start_app(field_encryption_key=(OLD,))
    await api.register()
    wrong = {"database_url": database_url, "field_encryption_key": NEW}
    for words in (("serve", "--port", str(free_port())), ("worker",), ("rotate-keys",), ("audit", "export")):
        line = refusal(await run_duly(tmp_path, *words, **wrong))
        assert line.startswith("FIELD_ENCRYPTION_KEY: "), words
        assert field_key_id(OLD) in line, words
    assert await known_keys(stored) == {field_key_id(OLD)}


async def parts_with(database: Database, database_url: str, tmp_path: Path, *field_keys: str) -> Parts:
    values: dict[str, Any] = {"database_url": database_url, "data_dir": tmp_path, "field_encryption_key": field_keys}
    return await assemble(Settings(_env_file=None, **values), database)


class Crash(Exception):
    pass


async def test_what_was_interrupted_keeps_its_batches_and_goes_on(
    database: Database, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    parts = await parts_with(database, database_url, tmp_path, OLD)
    async with database.unit() as unit:
        for number in range(keys.BATCH * 2 + 50):
            origin = Origin(ip_address=f"192.0.2.{number % 250}", user_agent="Agent")
            await parts.identity.audit.record(unit, Event.USER_LOGGED_OUT, origin=origin)
    await parts.chain.seal(database)
    parts = await parts_with(database, database_url, tmp_path, NEW, OLD)
    assert await keys.count_fields(database, parts) == keys.BATCH * 2 + 50
    seen: list[int] = []

    def crash(rows: int) -> None:
        seen.append(rows)
        raise Crash

    with pytest.raises(Crash):
        await keys.reencrypt_fields(database, parts, on_progress=crash)
    sealed = [row[0] for row in await stored.rows(SEALED)]
    assert sum(field_key_id(NEW) in text for text in sealed) == seen[0] == keys.BATCH
    assert await known_keys(stored) == {field_key_id(OLD), field_key_id(NEW)}
    rotation = await keys.reencrypt_fields(database, parts, on_progress=seen.append)
    assert (rotation.resealed, rotation.retired) == (keys.BATCH + 50, (field_key_id(OLD),))
    assert seen == [200, 200, 200, 50]
    assert (await (await parts_with(database, database_url, tmp_path, NEW)).chain.verify(database)).valid


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_field_that_no_key_opens_stops_it_and_no_key_is_forgotten(
    start_app: StartApp, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    api = await start_app(field_encryption_key=(OLD,))
    await api.register()
    victim, sealed = (await stored.rows("SELECT id, origin FROM sessions"))[0]
    await stored.rows("UPDATE sessions SET origin = ? WHERE id = ?", sealed[:-4] + "AAAA", victim)
    both = {"database_url": database_url, "field_encryption_key": f"{NEW},{OLD}"}
    line = refusal(await run_duly(tmp_path, "rotate-keys", **both))
    assert f"sessions {victim}: origin is altered" in line
    assert await known_keys(stored) == {field_key_id(OLD), field_key_id(NEW)}


async def token_of(mail_server: MailServer, email: str, subject: str) -> str:
    mail = await mail_server.wait_for(email, subject)
    return mail.text.partition("token=")[2].split()[0]


async def second_page(person: Person, cursor: str) -> int:
    return (await person.get("/tasks", params={"limit": 1, "cursor": cursor})).status_code


async def test_a_new_signing_key_logs_nobody_out_and_spoils_no_mail_and_no_page(
    mail_server: MailServer, database_url: str, tmp_path: Path
) -> None:
    async with application(database_url, tmp_path, **mail_server.settings) as api:
        ann = await api.register("ann@example.com")
        await ann.add_task("One")
        await ann.add_task("Two")
        cursor = (await ann.get("/tasks", params={"limit": 1})).json()["next_cursor"]
        await api.client.post("/api/v1/auth/forgot-password", json={"email": ann.email})
        reset = await token_of(mail_server, ann.email, "password")
    old = (tmp_path / "secret_key").read_text()
    said = answer(await run_duly(tmp_path, "rotate-keys", "--signing-key", database_url=database_url))
    assert "restart every server" in said
    assert (tmp_path / "secret_key").read_text() != old
    assert (tmp_path / "secret_key.previous").read_text() == old
    async with application(database_url, tmp_path, **mail_server.settings) as api:
        await everything_still_works(api, ann, cursor, reset)
        assert (await api.app.state.services.chain.verify(api.app.state.services.database)).valid
    said = answer(await run_duly(tmp_path, "rotate-keys", database_url=database_url))
    assert "secret_key.previous: key " in said


async def everything_still_works(api: Api, ann: Person, cursor: str, reset: str) -> None:
    person = Person(api.client, ann.user_id, ann.email, ann.access_token, ann.refresh_token)
    assert (await person.get("/auth/me")).status_code == 200
    assert await second_page(person, cursor) == 200
    renewed = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert renewed.status_code == 200, renewed.text
    person.access_token = renewed.json()["access_token"]
    assert await second_page(person, cursor) == 200
    once_more = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": renewed.json()["refresh_token"]})
    assert once_more.status_code == 200, once_more.text
    body = {"token": reset, "new_password": "paraffin-gondola-31"}
    assert (await api.client.post("/api/v1/auth/reset-password", json=body)).status_code == 204


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_signing_key_in_the_settings_is_not_replaced_but_explained(
    database_url: str, stored: Stored, tmp_path: Path
) -> None:
    settings = {"database_url": database_url, "secret_key": "s" + OLD}
    line = refusal(await run_duly(tmp_path, "rotate-keys", "--signing-key", **settings))
    assert line.startswith("SECRET_KEY: ")
    assert "SECRET_KEY_PREVIOUS" in line
    assert OLD not in line
    assert not (tmp_path / "secret_key").exists()
    assert await stored.value("SELECT count(*) FROM audit_log") == 0


async def test_a_secret_that_moved_to_the_previous_ones_is_named_when_no_field_needs_it(
    start_app: StartApp, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    api = await start_app(secret_key="s" + OLD)
    await api.register()
    assert await keys_in_use(stored) == {field_key_id("s" + OLD)}
    moved = {"database_url": database_url, "secret_key": "s" + NEW, "secret_key_previous": "s" + OLD}
    said = answer(await run_duly(tmp_path, "rotate-keys", **moved))
    assert (
        f"SECRET_KEY_PREVIOUS: key {field_key_id('s' + OLD)} encrypts nothing any more; remove it 7 days after" in said
    )
    assert await keys_in_use(stored) == await known_keys(stored) == {field_key_id("s" + NEW)}
