"""`duly mail`: what became of the mails, and sending again what was given up."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.commands import Done, answer, refusal, run_duly
from tests.fixtures.application import StartApp
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored


async def wait_for_state(stored: Stored, state: str, count: int) -> list[str]:
    """The ids of the mails in a state, oldest first, once there are `count`."""
    deadline = time.monotonic() + 10
    while True:
        ids = [row[0] for row in await stored.rows("SELECT id FROM outbox WHERE state = ? ORDER BY id", state)]
        if len(ids) == count:
            return ids
        assert time.monotonic() < deadline, f"{len(ids)} of {count} mails are {state}"
        await asyncio.sleep(0.05)


async def test_dead_and_waiting_mails_are_listed_without_saying_whose_they_are(
    start_app: StartApp, mail_server: MailServer, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    async def listed(*options: str) -> str:
        return answer(await run_duly(tmp_path, "mail", "list", *options, database_url=database_url))

    assert await listed() == "No mail is dead or waiting.\n"
    api = await start_app(**mail_server.settings)
    await api.register("sent@example.com")
    await wait_for_state(stored, "sent", 1)
    mail_server.mode = "refuse"
    await api.register("dead@example.com")
    [dead] = await wait_for_state(stored, "dead", 1)
    mail_server.mode = "451"
    await api.register("waiting@example.com")
    [waiting] = await wait_for_state(stored, "waiting", 1)
    await wait_for_error(stored, waiting)
    heading, first, second = (await listed()).splitlines()
    assert heading.split() == ["ID", "KIND", "STATE", "ATTEMPTS", "CREATED", "LAST", "ERROR"]
    assert first.split()[:4] == [dead, "verify_email", "dead", "1"]
    assert "refused the recipient (550" in first
    assert second.split()[:3] == [waiting, "verify_email", "waiting"]
    assert "451" in second
    assert "@example.com" not in await listed("--state", "sent", "--state", "dead", "--state", "waiting")
    assert [line.split()[2] for line in (await listed("--state", "sent")).splitlines()[1:]] == ["sent"]


async def wait_for_error(stored: Stored, message_id: str) -> None:
    deadline = time.monotonic() + 10
    while await stored.value("SELECT last_error FROM outbox WHERE id = ?", message_id) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_dead_mail_is_sent_when_it_is_retried_and_the_others_when_all_are(
    start_app: StartApp, mail_server: MailServer, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    async def retry(*words: str) -> Done:
        return await run_duly(tmp_path, "mail", "retry", *words, database_url=database_url)

    api = await start_app(**mail_server.settings)
    mail_server.mode = "refuse"
    for name in ("one", "two", "three"):
        await api.register(f"{name}@example.com")
    first, *_ = await wait_for_state(stored, "dead", 3)
    mail_server.mode = "ok"
    assert answer(await retry(first)) == "1 mail is due now.\n"
    await mail_server.wait_for("one@example.com")
    assert len(mail_server.messages) == 1
    assert answer(await retry("--all")) == "2 mails are due now.\n"
    await mail_server.wait_for("two@example.com")
    await mail_server.wait_for("three@example.com")
    assert len(await wait_for_state(stored, "sent", 3)) == len(mail_server.messages) == 3
    assert answer(await retry("--all")) == "0 mails are due now.\n"
    assert "no dead or waiting message" in refusal(await retry(first))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_wrong_word_is_refused_with_what_to_use(database_url: str, tmp_path: Path) -> None:
    line = refusal(await run_duly(tmp_path, "mail", "list", "--state", "lost", database_url=database_url))
    assert "waiting, sent, dropped, dead" in line
    for words in ((), ("some-id", "--all")):
        done = await run_duly(tmp_path, "mail", "retry", *words, database_url=database_url)
        assert (done.returncode, "--all" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert "no dead or waiting" in refusal(
        await run_duly(tmp_path, "mail", "retry", "some-id", database_url=database_url)
    )


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_more_than_fit_are_counted(
    start_app: StartApp, mail_server: MailServer, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    api = await start_app(**mail_server.settings)
    mail_server.mode = "refuse"
    for name in ("one", "two", "three"):
        await api.register(f"{name}@example.com")
    ids = await wait_for_state(stored, "dead", 3)
    *rows, last = answer(
        await run_duly(tmp_path, "mail", "list", "--limit", "2", database_url=database_url)
    ).splitlines()
    assert [row.split()[0] for row in rows[1:]] == [ids[2], ids[1]]
    assert last == "1 more; see them with --limit."
