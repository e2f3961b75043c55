"""What a new password must be, alike wherever one is chosen, and how old hashes are replaced."""

import contextlib
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.errors import Invalid
from duly.identity.strength import check_password, find_weakness
from duly.kit.passwords import PasswordHasher
from tests.fixtures.accounts import REGISTRATION, REGISTRATION_TOKEN
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.server import environment
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.mails import PUBLIC_URL, forget
from tests.test_users import code

EMAIL, USERNAME, NAME = "marigold.tinker@example.com", "Tinker-Marigold", "Marigold Q. Tinker"
EIGHT = "😀🚀🦊🍉🎻🧊🪁🐙"
DECOMPOSED = unicodedata.normalize("NFD", "éàüñçöêî")

WEAK = {
    "vK3-tQ9": "password_too_short", EIGHT[:7]: "password_too_short", DECOMPOSED[:-2]: "password_too_short",
    "orbit tangerine " * 8 + "x": "password_too_long", "😀🚀🦊" * 43: "password_too_long",
    "password": "password_common", "PASSWORD1": "password_common", "Qwertyuiop": "password_common",
    "baseball1": "password_common",
    "aaaaaaaaaaaa": "password_guessable", "éééééééé": "password_guessable", "abcdefghijk": "password_guessable",
    "passwordpassword": "password_guessable", "P4$$w0rd": "password_guessable", "20121231": "password_guessable",
    EMAIL: "password_is_email", EMAIL.upper(): "password_is_email", "Marigold.TINKER": "password_is_email",
    USERNAME: "password_is_name", USERNAME.lower(): "password_is_name", NAME: "password_is_name",
    NAME.upper(): "password_is_name", "Tinker-Marigold1": "password_guessable",
}  # fmt: skip
STRONG = [
    EIGHT, DECOMPOSED, "vK3-tQ9z", "orbit tangerine " * 8, "".join(map(chr, range(0x4E00, 0x6080, 37))),
    "correct horse battery staple",
    "горшок-луна-варенье", "蝴蝶在月光下跳舞的秋天", "कमल नदी पहाड़ चाय", "قمر صحراء كتاب نافذة", "  spaced out  ",
    "Tinker-Marigold's orange submarine",
]  # fmt: skip
NO_TEXT = ["tanger\x00ine-orbit", "tangerine\norbit 9", "tangerine\x7forbit", "tangerine-\x85orbit"]

Choose = Callable[[str], Awaitable[httpx.Response]]


@pytest.fixture
async def api(start_app: StartApp, mail_server: MailServer) -> Api:
    return await start_app(admin_registration_token=REGISTRATION_TOKEN, **mail_server.settings, public_url=PUBLIC_URL)


@pytest.fixture(params=["register", "change", "reset", "admins"])
async def choose(request: pytest.FixtureRequest, api: Api, mail_server: MailServer) -> tuple[str, Choose]:
    """The field's name, and a call that chooses a password for somebody with these names; it may be done again."""
    draft = {"email": EMAIL, "username": USERNAME, "name": NAME}
    if request.param in {"register", "admins"}:
        path = "/api/v1/auth/register" if request.param == "register" else "/api/admins/register"
        headers = REGISTRATION if request.param == "admins" else {}
        return "password", lambda text: api.client.post(path, json={**draft, "password": text}, headers=headers)
    person = await api.register(**draft)
    if request.param == "change":
        return "new_password", lambda text: person.post(
            "/auth/change-password", json={"current_password": PASSWORD, "new_password": text}
        )
    token = await forget(api, mail_server, EMAIL)
    return "new_password", lambda text: api.client.post(
        "/api/v1/auth/reset-password", json={"token": token, "new_password": text}
    )


@pytest.mark.covers("A093", "D045")
async def test_a_weak_password_is_refused_alike_wherever_it_is_chosen(
    choose: tuple[str, Choose], stored: Stored
) -> None:
    field, attempt = choose
    hashes = await stored.rows("SELECT hashed_password FROM users")
    for password, fault in WEAK.items():
        answer = await attempt(password)
        assert answer.status_code == 422, (password, answer.text)
        [error] = answer.json()["errors"]
        assert (error["field"], error["type"]) == (field, fault), password
        assert password not in answer.text or password == "password"  # which the sentence itself has
        if "code" in answer.json():
            assert code(answer) == (422, "WEAK_PASSWORD")
    for password in [*NO_TEXT, "", "x" * 2000]:
        answer = await attempt(password)
        assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field]), password
    # Nothing came of all that; in particular the mailed token is still good.
    assert await stored.rows("SELECT hashed_password FROM users") == hashes
    assert (await attempt("tangerine-orbit-93")).status_code in {200, 201, 204}


@pytest.mark.covers("A093")
async def test_half_a_character_is_no_password(api: Api) -> None:
    body = b'{"email":"ann@example.com","password":"tangerine\\ud800orbit"}'
    answer = await api.client.post("/api/v1/auth/register", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert find_weakness("tangerine\ud800orbit", [], 8) == (
        "Use no control characters, and valid Unicode.", "password_not_text",
    )  # fmt: skip


@pytest.mark.covers("A093")
async def test_ordinary_pass_phrases_of_any_alphabet_are_taken_and_open_the_account(api: Api, ann: Person) -> None:
    current = PASSWORD
    for password in STRONG:
        body = {"current_password": current, "new_password": password}
        answer = await ann.post("/auth/change-password", json=body)
        assert answer.status_code == 204, (password, answer.text)
        for form in ("NFC", "NFD"):
            await api.log_in(ann.email, unicodedata.normalize(form, password))
        current = unicodedata.normalize("NFC", password)
    assert len(STRONG[4]) == 128
    assert len(EIGHT) == 8
    await api.register(EMAIL, username=USERNAME, name=NAME, password=STRONG[-1])


@pytest.mark.covers("A093")
@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("vK3-tQ9", "at least 8 characters"), ("password", "tried first"), (EMAIL, "e-mail address"),
        ("Tinker-Marigold", "your name"), ("P4$$w0rd", "too easy to guess"), (STRONG[0], ""),
    ],
    ids=range(6),
)  # fmt: skip
async def test_the_command_for_administrators_has_the_same_rules(
    tmp_path: Path, database_url: str, stored: Stored, password: str, message: str
) -> None:
    words = ["create-admin", "--email", EMAIL, "--username", USERNAME, "--password-stdin"]
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this test
        [sys.executable, "-m", "duly", *words], input=f"{password}\n".encode(), capture_output=True, cwd=tmp_path,
        env=environment(tmp_path, database_url=database_url), timeout=60, check=False,
    )  # fmt: skip
    stderr = done.stderr.decode()
    assert (done.returncode, message in stderr) == (1 if message else 0, True), stderr
    assert stderr.count("\n") == (1 if message else 0)
    assert await stored.value("SELECT count(*) FROM users") == (0 if message else 1)


@pytest.mark.covers("A093")
async def test_no_password_takes_long_to_judge() -> None:
    hasher = PasswordHasher()
    signs = "4@8({[<3690!1|$5+7%2"
    for password in (
        signs * 6, "7+2%0oO1l|!iI" * 9, "1!|il" * 25, "ab" * 64, "a1b2c3d4" * 16, "1/2/99" * 21, "qwertyuiop" * 12,
        "P4$$w0rd" * 16, "".join(chr(0x4E00 + number) for number in range(128)), "2012" * 32, "😀" * 128,
        "".join(signs[number * 7 % 20] for number in range(128)),
    ):  # fmt: skip
        begun = time.process_time()
        with contextlib.suppress(Invalid):  # weak or not is no matter here
            await check_password(hasher, password, names=["x" * 254, "y" * 32, "z " * 100], minimum=8)
        assert time.process_time() - begun < 0.5, password
    hasher.close()


async def kept(stored: Stored) -> str:
    found: str = await stored.value("SELECT hashed_password FROM users")
    return found


@pytest.mark.covers("A029", "B020", "D016")
async def test_a_login_under_another_setting_replaces_the_hash_and_stays_right(
    start_app: StartApp, stored: Stored
) -> None:
    argon, blow = await start_app(), await start_app(password_hasher="bcrypt", bcrypt_rounds=10)
    ann = await argon.register("ann@example.com", username="ann-b")
    forms = {"argon": r"\$argon2id\$v=19\$m=19456,t=2,p=1\$.*", "blow": r"\$2b\$10\$[./A-Za-z0-9]{53}"}
    replaced = 0
    for name, api in (("blow", blow), ("blow", blow), ("argon", argon), ("blow", blow), ("argon", argon)):
        before = await kept(stored)
        wrong: Any = {"email": "ann@example.com", "password": "wrong-orbit-92"}
        assert (await api.client.post("/api/v1/auth/login", json=wrong)).status_code == 401
        assert await kept(stored) == before
        await api.log_in("ann-b")
        after = await kept(stored)
        assert re.fullmatch(forms[name], after)
        replaced += before != after
        assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'password.rehashed'") == replaced
    assert replaced == 4
    # No session ends over it, and the version that clients hold stays good.
    assert (await ann.get("/users/profile")).headers["etag"] == '"1"'
