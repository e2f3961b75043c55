"""The example app in a real browser, on both databases: from signing up to a finished task, and two windows at once."""

import base64
import contextlib
import json
import re
import sqlite3
from typing import Any

import httpx
import jwt
import jwt.utils
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Page, expect

from tests.better_auth.running import better_auth_server
from tests.browser.app import PASSWORD, Example, Person
from tests.browser.steps import OpenPage, TakePicture, add_task, fault, is_completed, row, title_field, wait_until_live
from tests.fixtures.database import DIALECTS

pytest_plugins = ("tests.browser.fixtures",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The whole file runs once on each database."""
    metafunc.parametrize("database_of_example", DIALECTS, indirect=True, scope="module")


def enter(page: Page, email: str, password: str) -> None:
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.mark.covers("A036", "A125", "A136", "C130", "D095", "E114")
def test_from_signing_up_to_a_finished_task(example: Example, open_page: OpenPage, take_picture: TakePicture) -> None:
    page = open_page("/")
    expect(page).to_have_url(re.compile("/sign-in"))
    take_picture(page, "sign-in")
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("Name").fill("Nia Newcomer")
    page.get_by_label("E-mail").fill("nia@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_text("Add your first task above.")).to_be_visible()
    take_picture(page, "empty")
    add_task(page, "Water the plants")
    is_completed(page, "Water the plants").check()
    expect(row(page, "Water the plants")).to_have_class(re.compile("done"))
    page.reload()
    expect(is_completed(page, "Water the plants")).to_be_checked()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    enter(page, "nia@example.com", PASSWORD)
    expect(is_completed(page, "Water the plants")).to_be_checked()


@pytest.mark.covers("E114")
def test_a_wrong_password_is_said_and_lets_nobody_in(example: Example, open_page: OpenPage, visitor: Person) -> None:
    page = open_page("/tasks/some-task")
    enter(page, visitor.email, "not-the-password")
    expect(fault(page, "Invalid email or password")).to_be_visible()
    expect(page).to_have_url(re.compile("/sign-in"))
    assert page.context.request.get("/api/token").status == 401


@pytest.mark.covers("A036", "E114")
def test_what_one_window_does_shows_in_the_other(open_page: OpenPage, visitor: Person) -> None:
    here, there = open_page("/", visitor), open_page("/", visitor)
    wait_until_live(there)
    wait_until_live(here)
    add_task(here, "Shared")
    expect(row(there, "Shared")).to_be_visible()
    is_completed(there, "Shared").check()
    expect(is_completed(here, "Shared")).to_be_checked()
    here.get_by_role("button", name="Delete: Shared").click()
    expect(row(there, "Shared")).to_have_count(0)
    here.get_by_role("button", name="Undo").click()
    expect(is_completed(there, "Shared")).to_be_checked()
    expect(is_completed(here, "Shared")).to_be_checked()


@pytest.mark.parametrize("keep_mine", [True, False])
def test_two_windows_that_edit_one_task_both_see_both_versions(
    example: Example, open_page: OpenPage, visitor: Person, take_picture: TakePicture, keep_mine: bool
) -> None:
    task = example.add_task(visitor, "Renew the passport", tags=["travel"])
    here, there = (open_page(f"/tasks/{task['id']}", visitor) for _ in range(2))
    for page, title in ((here, "Renew both passports"), (there, "Renew it at the town hall")):
        wait_until_live(page)
        title_field(page).fill(title)
    there.get_by_label("Tags").fill("travel, errands")
    there.get_by_role("button", name="Save").click()
    expect(there.get_by_text("Saved.")).to_be_visible()
    expect(here.get_by_text("This task has changed in another window.")).to_be_visible()
    take_picture(here, "changed-elsewhere")
    here.get_by_role("button", name="Save").click()
    dialog = here.get_by_role("dialog")
    expect(dialog.get_by_role("region", name="Saved now")).to_contain_text("Renew it at the town hall")
    expect(dialog.get_by_role("region", name="Yours")).to_contain_text("Renew both passports")
    take_picture(here, "both-versions")
    dialog.get_by_role("button", name="Keep mine" if keep_mine else "Take the saved one").click()
    expect(dialog).to_have_count(0)
    kept = "Renew both passports" if keep_mine else "Renew it at the town hall"
    for page in (here, there):
        expect(title_field(page)).to_have_value(kept)
        expect(page.get_by_label("Tags")).to_have_value("travel, errands")
    stored = example.api(visitor, "GET", f"/tasks/{task['id']}").json()
    assert (stored["title"], stored["tags"]) == (kept, ["travel", "errands"])


@pytest.mark.covers("C040", "E042")
def test_a_new_signing_key_works_at_once_and_without_a_restart(example: Example, visitor: Person) -> None:
    task = example.add_task(visitor, "Signed with the first key")
    before = jwt.get_unverified_header(example.token(visitor))
    with contextlib.closing(sqlite3.connect(example.folder / "app" / "auth.db", timeout=60)) as accounts, accounts:
        accounts.execute("DELETE FROM jwks")
    after = jwt.get_unverified_header(example.token(visitor))
    assert (before["alg"], after["alg"]) == ("EdDSA", "EdDSA")
    assert before["kid"] != after["kid"]
    assert example.api(visitor, "GET", f"/tasks/{task['id']}").status_code == 200


def encode(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.covers("E043", "E046")
def test_what_was_made_of_better_auths_token_is_refused(example: Example, visitor: Person) -> None:
    token = example.token(visitor)
    head, body, signature = token.split(".")
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    (published,) = httpx.get(f"{example.app_url}/api/auth/jwks", trust_env=False, timeout=60).json()["keys"]
    public, kid = jwt.utils.base64url_decode(published["x"]), {"kid": header["kid"]}
    forged = {
        "another subject": f"{head}.{encode({**claims, 'sub': example.sign_up('Bob').email})}.{signature}",
        "no signature": f"{encode({**header, 'alg': 'none'})}.{body}.",
        "the public key as a secret": jwt.encode(claims, public, "HS256", headers=kid),
        "another key": jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers=kid),
    }
    with contextlib.contextmanager(better_auth_server)() as other:
        forged["another Better Auth"] = other.sign_up("ann@example.com")
    for name, presented in {"as it was": token, **forged}.items():
        headers = {"Authorization": f"Bearer {presented}"}
        answer = httpx.get(f"{example.duly_url}/api/v1/tasks", headers=headers, trust_env=False, timeout=60)
        if name == "as it was":
            assert answer.status_code == 200
        else:
            assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_TOKEN"), name
            assert 'error="invalid_token"' in answer.headers["www-authenticate"], name


@pytest.mark.covers("E115")
def test_another_persons_task_is_as_absent_as_one_that_never_was(
    example: Example, open_page: OpenPage, visitor: Person
) -> None:
    task = example.add_task(example.sign_up("Bob"), "Bob's secret")
    page = open_page(f"/tasks/{task['id']}", visitor)
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    texts = page.content()
    assert "Bob's secret" not in texts
    page.goto("/tasks/00000000-0000-7000-8000-000000000000")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
